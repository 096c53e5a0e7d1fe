#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Models of every family from transformers through esft: train, merge, and transformers loads the merged model and says what esft says.

    tests/interop/merged_models.py PATH/TO/esft
"""
import pathlib
import sys
import tempfile

sys.path[0] = str(pathlib.Path(__file__).resolve().parent / "support")  # not this folder: tokenizers.py has the name of a package

import peft  # noqa: E402
import small_models  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


def main(tool):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
    esft, report = small_models.Tool(tool), small_models.Report()
    for family in small_models.FAMILIES:
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{family} {str(dtype).removeprefix('torch.')}"
            with tempfile.TemporaryDirectory() as scratch:
                at = pathlib.Path(scratch)
                small_models.make(family, at / "model", dtype, "50KB")
                small_models.write_data(at / "task.jsonl")
                report.expect(f"{name} is in shards", (at / "model" / "model.safetensors.index.json").exists())
                base = small_models.logits(small_models.load(at / "model"))
                report.compare(f"{name} base", esft.logits(at / "model", at), base)
                esft("score", "--model", at / "model", "--data", at / "task.jsonl", "--length", 24, "--out", at / "scores.json")
                esft("select", "--scores", at / "scores.json", "--policy", "top-p", "--p", 0.4, "--out", at / "experts.json")
                esft("train", "--model", at / "model", "--data", at / "task.jsonl", "--experts", at / "experts.json", "--steps", 4, "--lr",
                     0.01, "--length", 24, "--batch-rows", 4, "--out", at / "run")
                esft("merge", "--model", at / "model", "--adapter", at / "run", "--out", at / "merged")
                merged = small_models.logits(small_models.load(at / "merged"))
                report.expect(f"{name} was changed by training", abs(merged - base).max() > 1e-2)
                report.compare(f"{name} merged", esft.logits(at / "merged", at), merged)
                report.compare(f"{name} base + adapter", esft.logits(at / "model", at, "--adapter", at / "run"), merged)
                files = [sorted(p.name for p in (at / m).iterdir()) for m in ("model", "merged")]
                report.expect(f"{name} has the same files", files[0] == files[1])
    report.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
