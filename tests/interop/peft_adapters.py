#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters both ways: what esft trained and converted computes the same in peft, what peft made computes the same in esft.

    tests/interop/peft_adapters.py PATH/TO/esft
"""
import pathlib
import sys
import tempfile
import warnings

sys.path[0] = str(pathlib.Path(__file__).resolve().parent / "support")  # not this folder: tokenizers.py has the name of a package

import peft  # noqa: E402
import small_models  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


def from_esft(esft, report, family, at, layout, targets, *more):
    """Trains with esft, converts, loads with peft."""
    run, there = at / f"run_{layout}", at / layout
    esft("train", "--model", at / "model", "--data", at / "task.jsonl", "--method", "lora", "--rank", 3, "--alpha", 12, "--targets", targets,
         "--steps", 6, "--lr", 0.05, "--length", 24, "--batch-rows", 4, "--out", run, *more)
    esft("convert", "--model", at / "model", "--adapter", run, "--to", "peft", "--layout", layout, "--out", there)
    base = small_models.load(at / "model")
    plain = small_models.logits(base)
    model = peft.PeftModel.from_pretrained(base, there).eval()
    theirs = small_models.logits(model)
    report.expect(f"{family} {layout} changes what the base says", abs(theirs - plain).max() > 1e-2)
    report.compare(f"{family} {layout}: esft's adapter in peft", esft.logits(at / "model", at, "--adapter", run), theirs)


def from_peft(esft, report, family, at, **options):
    """Makes an adapter with peft, converts, loads with esft."""
    there = at / "made_by_peft"
    torch.manual_seed(3)
    model = peft.get_peft_model(small_models.load(at / "model"), peft.LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = torch.randn_like(p) * 0.2
    model.save_pretrained(there)
    theirs = small_models.logits(model)
    report.compare(f"{family}: peft's directory as --adapter", esft.logits(at / "model", at, "--adapter", there), theirs)
    esft("convert", "--model", at / "model", "--adapter", there, "--to", "esft", "--out", at / "ours")
    report.compare(f"{family}: peft's adapter in esft", esft.logits(at / "model", at, "--adapter", at / "ours"), theirs)
    esft("convert", "--model", at / "model", "--adapter", at / "ours", "--to", "peft", "--out", at / "back")
    again = peft.PeftModel.from_pretrained(small_models.load(at / "model"), at / "back").eval()
    report.compare(f"{family}: and back in peft", small_models.logits(again), theirs)


def main(tool):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
    esft, report = small_models.Tool(tool), small_models.Report()
    for family in small_models.FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            at = pathlib.Path(scratch)
            small_models.make(family, at / "model")
            small_models.write_data(at / "task.jsonl")
            everything = "attention,experts,router,head"
            everything += ",dense,shared" if family.startswith("deepseek") else ",shared" if family == "qwen2_moe" else ""
            from_esft(esft, report, family, at, "parameters", everything, *(["--rslora"] if family == "mixtral" else []))
            # peft takes gate_proj, up_proj and down_proj of this layout for those of experts: dense and shared maps must not be there
            # and where the family is qwen2_moe itself it (0.21.2) reads no experts at all from this layout
            if family != "gpt_oss":  # its experts are no linear maps of their own
                from_esft(esft, report, family, at, "modules", "attention" if family == "qwen2_moe" else "attention,experts")
            from_peft(esft, report, family, at, r=4, lora_alpha=6, use_rslora=family == "olmoe", target_modules=["o_proj"],
                      target_parameters=["experts.gate_up_proj", "experts.down_proj"],
                      rank_pattern={} if family == "olmoe" else {"experts.down_proj": 2}, alpha_pattern={"layers.1.self_attn.o_proj": 5})
    report.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
