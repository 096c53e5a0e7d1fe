# SPDX-License-Identifier: Apache-2.0
"""Small random models of every family as transformers saves them, data for a byte tokenizer, and the tool as a function."""
import json
import pathlib
import subprocess

import numpy
import torch
import transformers

COMMON = {"vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 128,
          "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258, "tie_word_embeddings": False}
LATENT = {"num_key_value_heads": 4, "intermediate_size": 40, "moe_intermediate_size": 24, "kv_lora_rank": 20, "qk_nope_head_dim": 8,
          "qk_rope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "n_routed_experts": 8, "n_shared_experts": 1,
          "num_experts_per_tok": 3}
QWEN = {"num_key_value_heads": 2, "intermediate_size": 40, "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3}
FAMILIES = {
    "deepseek_v2": (transformers.DeepseekV2Config, {**LATENT, "q_lora_rank": None, "topk_method": "greedy", "norm_topk_prob": False}),
    "deepseek_v3": (transformers.DeepseekV3Config, {**LATENT, "q_lora_rank": 12, "n_group": 4, "topk_group": 2, "num_mtp_layers": 0}),
    "mixtral": (transformers.MixtralConfig, {"num_key_value_heads": 2, "intermediate_size": 24, "num_local_experts": 8}),
    "qwen2_moe": (transformers.Qwen2MoeConfig, {**QWEN, "shared_expert_intermediate_size": 24}),
    "qwen3_moe": (transformers.Qwen3MoeConfig, {**QWEN, "head_dim": 8, "norm_topk_prob": True}),
    "gpt_oss": (transformers.GptOssConfig, {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 24, "num_local_experts": 8,
                                            "num_experts_per_tok": 3, "sliding_window": 4}),
    "olmoe": (transformers.OlmoeConfig, {"num_key_value_heads": 4, "intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3}),
}
IDS = [256, 49, 43, 49, 61, 50, 10, 52, 43, 51, 61, 55]


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    return model.eval()


def make(family, folder, dtype=torch.float32, shard="1MB"):
    """A random model whose experts and router matter, saved by transformers."""
    kind, options = FAMILIES[family]
    torch.manual_seed(sum(map(ord, family)))
    model = transformers.AutoModelForCausalLM.from_config(kind(**{**COMMON, **options}))
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if "correction_bias" in name:
            p.data = 0.3 * torch.randn_like(p)
        elif p.dim() >= 2 and "inv_freq" not in name:
            factor = 8.0 if name.endswith(("gate.weight", "router.weight")) else p.shape[-1] ** 0.5 if "embed" in name else 1.0
            p.data = torch.randn_like(p) * factor / p.shape[-1] ** 0.5
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)


def write_data(path):
    path.write_text("".join(json.dumps({"prompt": f"{i % 10}+1", "completion": str(i % 10 + 1)}) + "\n" for i in range(24)))


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].float().numpy()


class Tool:
    def __init__(self, path):
        self.path = pathlib.Path(path).resolve()

    def __call__(self, *words):
        done = subprocess.run([self.path, *map(str, words), "--quiet"], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"esft {' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def logits(self, model, folder, *more):
        self("logits", "--model", model, "--dtype", "float32", "--ids", ",".join(map(str, IDS)), "--out", folder / "logits.npy", *more)
        return numpy.load(folder / "logits.npy")


class Report:
    """Counts what differs by more than a bound, relative to the largest number."""

    def __init__(self):
        self.failed = []

    def compare(self, what, ours, theirs, bound=2e-5):
        error = float(numpy.abs(ours - theirs).max() / numpy.abs(theirs).max())
        print(f"  {what}: {error:.1e}" + ("" if error <= bound else "   DIFFERS"), flush=True)
        if not error <= bound:
            self.failed.append(what)

    def expect(self, what, holds):
        print(f"  {what}: {'yes' if holds else 'NO'}", flush=True)
        if not holds:
            self.failed.append(what)

    def end(self):
        if self.failed:
            raise SystemExit("differs: " + "; ".join(self.failed))
