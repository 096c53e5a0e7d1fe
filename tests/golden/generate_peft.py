#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden LoRA adapters of this folder: made, saved and computed by the package peft beside the golden models.

`<name>/adapter_config.json` and `adapter_model.safetensors` are an adapter directory; `logits.npy` [T, V] is what base and adapter say of
the tokens of `tokens.npy`. Layout `parameters` is what peft makes of models whose experts are one tensor a layer. Layout `modules` has the
names of linear maps one by one; peft cannot make it from such models any more, but reads it: there the factors are written here.
"""
import json
import pathlib
import shutil
import sys

import numpy
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from generate import HERE
from generate_families import is_router

IDS = [5, 17, 2, 30, 11, 0, 23, 9]


def base_of(family):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        HERE / family, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    return model.eval()


def steady(model):
    """Whether small changes of the routers' inputs would change no choice."""
    same = []

    def observe(module, args, output):
        for _ in range(8):
            moved = module.forward(args[0] * (1 + 2e-3 * torch.randn_like(args[0])))
            same.append(torch.equal(moved[2].sort(-1).values, output[2].sort(-1).values))

    handles = [m.register_forward_hook(observe) for m in model.modules() if is_router(m)]
    with torch.no_grad():
        model(input_ids=torch.tensor([IDS]), use_cache=False)
    for handle in handles:
        handle.remove()
    assert same, "no router was seen"
    return all(same)


def finish(folder, model):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
        with model.disable_adapter():
            plain = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
    assert (logits - plain).abs().max() > 0.1, "the adapter must matter"
    numpy.save(folder / "logits.npy", logits.numpy())
    numpy.save(folder / "tokens.npy", numpy.array(IDS, dtype=numpy.int32))
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = None  # where it lay does not belong here
    for key in ("target_modules", "target_parameters"):
        config[key] = sorted(config[key]) if config[key] else config[key]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    print(f"{folder.name}: {len(load_file(folder / 'adapter_model.safetensors'))} tensors, moved by {(logits - plain).abs().max():.3f}")


def wanted(name):
    return len(sys.argv) < 2 or name in sys.argv[1:]


def by_peft(name, family, **options):
    """An adapter that peft made: its own modules, its own save."""
    if not wanted(name):
        return
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    for seed in range(1000):
        torch.manual_seed(seed)
        model = peft.get_peft_model(base_of(family), peft.LoraConfig(task_type="CAUSAL_LM", **options)).eval()
        for n, p in model.named_parameters():
            if "lora_" in n:
                p.data = torch.randn_like(p) * 0.4
        if steady(model):
            break
    else:
        raise RuntimeError("no seed keeps the routers' choices apart")
    model.save_pretrained(folder)
    finish(folder, model)


def by_hand(name, family, shapes, **options):
    """Factors under the names of linear maps, read and computed by peft. `shapes`: module -> (out, in)."""
    if not wanted(name):
        return
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = peft.LoraConfig(task_type="CAUSAL_LM", inference_mode=True, **options)
    for seed in range(1000):
        torch.manual_seed(seed)
        tensors = {}
        for module, (rows, columns) in shapes.items():
            tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(config.r, columns) * 0.4
            tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, config.r) * 0.4
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)
        model = peft.PeftModel.from_pretrained(base_of(family), folder).eval()
        if steady(model):
            break
    else:
        raise RuntimeError("no seed keeps the routers' choices apart")
    config.save_pretrained(folder)  # loading changed the options in memory
    finish(folder, model)


def main():
    torch.set_num_threads(1)
    print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    layer = "model.layers.{}.mlp."
    by_peft("peft_deepseek_v2_lite", "deepseek_v2_lite", r=3, lora_alpha=6, target_modules=["q_proj", "kv_b_proj", "lm_head"],
            target_parameters=[layer.format(1) + "experts.gate_up_proj", "mlp.experts.down_proj",
                               layer.format(0) + "up_proj.weight", layer.format(2) + "shared_experts.down_proj.weight"],
            rank_pattern={"mlp.experts.down_proj": 2, "lm_head": 1}, alpha_pattern={"layers.2.mlp.experts.down_proj": 5})
    by_peft("peft_mixtral_rslora", "mixtral", r=2, lora_alpha=3, use_rslora=True, target_modules=["o_proj"],
            target_parameters=["experts.gate_up_proj", "experts.down_proj", "mlp.gate.weight"])
    by_peft("peft_gpt_oss", "gpt_oss", r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"],
            target_parameters=["experts.gate_up_proj", "experts.down_proj", "mlp.router.weight"], rank_pattern={"experts.down_proj": 1})
    experts = {f"model.layers.{l}.block_sparse_moe.experts.{e}.{w}": (16, 6) if w == "w2" else (6, 16)
               for l in range(3) for e in range(8) for w in ("w1", "w2", "w3")}
    attention = {f"model.layers.{l}.self_attn.{p}_proj": (16 if p == "q" else 8, 16) for l in range(3) for p in "qk"}
    by_hand("peft_mixtral_modules", "mixtral", experts | attention, r=2, lora_alpha=4,
            target_modules=["w1", "w2", "w3", "q_proj", "k_proj"])


if __name__ == "__main__":
    main()
