#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Renders conversations with `transformers` and the tokenizers beside this file: ids, which of them are learned, and the prompt.

    pip install tokenizers==0.23.3 transformers==5.23.0 && python3 tests/golden/tokenizers/generate_chat.py

The templates below are the text forms of the families, written for this file; `generation` marks what carries loss. Writes chat.json.
"""
import json
import pathlib

import transformers
from transformers import PreTrainedTokenizerFast

here = pathlib.Path(__file__).resolve().parent


def template(begin, system, user, opening, answer):
    """Jinja for a conversation: a text for each role; `answer` is what carries loss after `opening`."""
    loop = "{% for m in messages %}{% if m.role == 'system' %}" + system + "{% elif m.role == 'user' %}" + user + "{% else %}" + opening
    loop += "{% generation %}" + answer + "{% endgeneration %}{% endif %}{% endfor %}"
    return begin + loop + "{% if add_generation_prompt %}" + opening + "{% endif %}"


HARMONY_SYSTEM = ("<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n\n"
                  "Reasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>")
# name: (tokenizer, bos, eos, template)
TEMPLATES = {
    "esft": ("deepseek_v2", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
             template("{{ bos_token }}", "{{ m.content + '\n\n' }}", "{{ 'User: ' + m.content + '\n\n' }}", "{{ 'Assistant:' }}",
                      "{{ ' ' + m.content + eos_token }}")),
    "chatml": ("qwen", None, "<|im_end|>",
               template("", "{{ '<|im_start|>system\n' + m.content + '<|im_end|>\n' }}", "{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}",
                        "{{ '<|im_start|>assistant\n' }}", "{{ m.content + '<|im_end|>' }}").replace(
                            "{% endgeneration %}", "{% endgeneration %}{{ '\n' }}")),
    "deepseek": ("deepseek_v3", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
                 template("{{ bos_token }}", "{{ m.content }}", "{{ '<｜User｜>' + m.content }}", "{{ '<｜Assistant｜>' }}",
                          "{{ m.content + eos_token }}")),
    "mistral": ("mixtral", "<s>", "</s>",
                template("{{ bos_token }}", "", "{{ ' [INST] ' }}{% if loop.index0 == 1 and messages[0].role == 'system' %}"
                         "{{ messages[0].content + '\n\n' }}{% endif %}{{ m.content + ' [/INST]' }}", "", "{{ ' ' + m.content + eos_token }}")),
    "harmony": ("gpt_oss", "<|startoftext|>", "<|return|>",
                template("{{ '" + HARMONY_SYSTEM + "' }}", "{{ '<|start|>developer<|message|># Instructions\n\n' + m.content + '\n\n<|end|>' }}",
                         "{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}", "{{ '<|start|>assistant<|channel|>final<|message|>' }}",
                         "{{ m.content + ('<|return|>' if loop.last else '<|end|>') }}")),
}
CONVERSATIONS = [
    [("user", "The quick brown fox?"), ("assistant", "It jumps over 1234 dogs.")],
    [("system", "Be brief, été 天地."), ("user", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}"), ("assistant", "¡Sí! 👍🏽")],
    [("user", "a"), ("assistant", "b"), ("user", "Съешь же ещё?"), ("assistant", "No.\n\nReally not.")],
]

if __name__ == "__main__":
    result = {"transformers": transformers.__version__, "templates": {}}
    for name, (family, bos, eos, jinja) in TEMPLATES.items():
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(here / f"{family}.json"), bos_token=bos, eos_token=eos)
        tokenizer.chat_template = jinja
        cases = []
        for turns in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in turns]
            whole = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
            prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
            cases.append({"messages": messages, "ids": whole["input_ids"], "learned": whole["assistant_masks"], "prompt": prompt["input_ids"]})
        result["templates"][name] = cases
    (here / "chat.json").write_text(json.dumps(result, separators=(",", ":")))
