#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our adapter directories through `esft.py` of the official repository: strictly loaded, they give the merged model's tensors.

    ESFT_OFFICIAL=PATH/TO/CLONE tests/interop/official_esft.py PATH/TO/esft

Without the variable the comparison is skipped. The model is a skeleton with the official names: `esft.py` never computes with it.
"""
import importlib.util
import json
import os
import pathlib
import sys
import tempfile

sys.path[0] = str(pathlib.Path(__file__).resolve().parent / "support")  # not this folder: tokenizers.py has the name of a package

import small_models  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


class DeepseekV2MoE(torch.nn.Module):
    """esft.py looks for this name."""


def skeleton(tensors):
    """Modules that hold these tensors as parameters, under their names."""
    if all("." not in name for name in tensors):
        module = torch.nn.Module()
        for name, value in tensors.items():
            module.register_parameter(name, torch.nn.Parameter(value.clone()))
        return module
    children = {}
    for name, value in tensors.items():
        first, _, rest = name.partition(".")
        children.setdefault(first, {})[rest] = value
    modules = {name: skeleton(inner) for name, inner in children.items()}
    if all(name.isdigit() for name in modules):
        return torch.nn.ModuleList([modules[str(i)] for i in range(len(modules))])
    module = DeepseekV2MoE() if "experts" in modules else torch.nn.Module()
    for name, child in modules.items():
        module.add_module(name, child)
    return module


def all_tensors(folder):
    result = {}
    for path in sorted(folder.glob("*.safetensors")):
        result |= load_file(path)
    return result


def main(tool):
    clone = os.environ.get("ESFT_OFFICIAL")
    if not clone:
        print("SKIP: ESFT_OFFICIAL names no clone of the official repository")
        return
    transformers.logging.disable_progress_bar()
    spec = importlib.util.spec_from_file_location("official_esft", pathlib.Path(clone) / "esft.py")
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    esft, report = small_models.Tool(tool), small_models.Report()
    with tempfile.TemporaryDirectory() as scratch:
        at = pathlib.Path(scratch)
        small_models.make("deepseek_v2", at / "model", torch.bfloat16)
        small_models.write_data(at / "task.jsonl")
        flags = {"experts": {}, "shared": {"shared_experts": True}, "everything": {"shared_experts": True, "non_expert_modules": True}}
        for name, more in flags.items():
            config = {"experts": {"1": [3, 0], "2": []}, "shared_experts": False, "non_expert_modules": False} | more
            (at / "experts.json").write_text(json.dumps(config))
            esft("train", "--model", at / "model", "--data", at / "task.jsonl", "--experts", at / "experts.json", "--steps", 3, "--lr", 0.01,
                 "--length", 24, "--batch-rows", 4, "--out", at / name)
            esft("merge", "--model", at / "model", "--adapter", at / name, "--out", at / f"{name}_merged")
            model = skeleton(all_tensors(at / "model"))
            official.add_adapter(model, str(at / name / "adapter"))  # strict: not a tensor more or less than the configuration says
            merged = all_tensors(at / f"{name}_merged")
            now = {n: t for n, t in [*model.named_parameters(), *model.named_buffers()]}
            report.expect(f"{name}: every tensor is the merged model's", all(torch.equal(now[n], t) for n, t in merged.items()))
            changed = sum(not torch.equal(t, merged[n]) for n, t in all_tensors(at / "model").items())
            report.expect(f"{name}: {changed} tensors changed", changed > 0)
        # the first official adapters: no prefix, several files, no manifest
        legacy = at / "legacy"
        legacy.mkdir()
        tensors = list(load_file(at / "experts" / "adapter" / "adapter.safetensors").items())
        for number, part in enumerate((tensors[:3], tensors[3:])):
            save_file({n.removeprefix("model."): t for n, t in part}, legacy / f"part-{number}.safetensors")
        (legacy / "expert_cfg.json").write_text((at / "experts" / "adapter" / "expert_cfg.json").read_text())
        esft("merge", "--model", at / "model", "--adapter", legacy, "--out", at / "legacy_merged")
        theirs, ours = all_tensors(at / "legacy_merged"), all_tensors(at / "experts_merged")
        report.expect("legacy names give the same model", all(torch.equal(theirs[n], t) for n, t in ours.items()))
    report.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
