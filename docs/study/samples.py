#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Questions 1 and 6 of the study (README.md): which experts tasks and domains share, and how many tokens a selection needs.

Scores with the tool, counts here. Writes overlap.csv and sample_size.csv into --out. Run from the top folder; the standard library is enough.
"""
import argparse
import json
import pathlib
import subprocess

DOMAINS = ("scripture_en", "scripture_es", "python", "licences", "packages", "arithmetic")
TASKS = ("package_section", "licence_id", "arithmetic_prefix", "package_json")
TOP = 4  # experts compared a layer: as many as a token takes
P = 0.2
SIZES = [2 ** n for n in range(9, 16)]
SEEDS = (1, 2, 3, 4, 5)


def score(options, data, *more):
    out = options.out / "scores.json"
    command = [options.tool, "score", "--model", options.model, "--data", str(data), "--scorer", "token", "--out", str(out), "--quiet", *more]
    subprocess.run(command, check=True)
    document = json.loads(out.read_text())
    out.unlink()
    return {int(layer): [row[str(e)] for e in range(len(row))] for layer, row in document["token_scores"].items()}


def top_experts(scores):
    return {layer: set(sorted(range(len(row)), key=lambda e: (-row[e], e))[:TOP]) for layer, row in scores.items()}


def top_p(scores):
    chosen = set()
    for layer, row in scores.items():
        total = 0.0
        for e in sorted(range(len(row)), key=lambda e: (-row[e], e)):
            if total >= P:
                break
            chosen.add((layer, e))
            total += row[e]
    return chosen


def shared(a, b):
    return sum(len(a[layer] & b[layer]) for layer in a) / len(a)


def overlap(options):
    halves = {}
    for name, file in [(d, f"probe.{d}.jsonl") for d in DOMAINS] + [(t, f"{t}.train.jsonl") for t in TASKS]:
        lines = (options.data / file).read_text().splitlines(keepends=True)
        for half in (0, 1):
            part = options.out / "half.jsonl"
            part.write_text("".join(lines[half::2]))
            halves[name, half] = top_experts(score(options, part))
            part.unlink()
    names = list(DOMAINS) + list(TASKS)
    with open(options.out / "overlap.csv", "w") as table:
        table.write("a,b,shared_top_%d\n" % TOP)
        for i, a in enumerate(names):
            for b in names[i:]:  # a name with itself: its two halves; two names: mean over the four pairs of halves
                pairs = [(0, 1)] if a == b else [(x, y) for x in (0, 1) for y in (0, 1)]
                table.write(f"{a},{b},{sum(shared(halves[a, x], halves[b, y]) for x, y in pairs) / len(pairs):.6f}\n")


def sample_size(options):
    with open(options.out / "sample_size.csv", "w") as table:
        table.write("task,tokens,seed,selected,of_all,kept\n")
        for task in TASKS:
            data = options.data / f"{task}.train.jsonl"
            everything = top_p(score(options, data))
            for tokens in SIZES:
                for seed in SEEDS:
                    some = top_p(score(options, data, "--sample-tokens", str(tokens), "--seed", str(seed)))
                    kept = len(some & everything) / len(everything)
                    table.write(f"{task},{tokens},{seed},{len(some)},{len(everything)},{kept:.6f}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", default="build/release/bin/esft")
    parser.add_argument("--model", default="examples/quickstart/model")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("examples/quickstart/data"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/study"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    overlap(options)
    sample_size(options)


if __name__ == "__main__":
    main()
