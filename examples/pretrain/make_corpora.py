#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes <out>/train.<domain>.jsonl and <out>/validation.<domain>.jsonl, one {"text": ...} a line, for the six domains of the bundled model.

Needs a Debian 12 system with: sword-text-kjv sword-text-sparv diatheke libpython3.11-stdlib, and `apt-get update` done once.
"""
import argparse
import json
import pathlib
import random

import sources


def readers(limit, seed):
    return {
        "scripture_en": lambda: sources.scripture("engKJV2006eb"),
        "scripture_es": lambda: sources.scripture("spaRV1909eb"),
        "python": sources.python_files,
        "licences": sources.licences,
        "packages": sources.packages,
        "arithmetic": lambda: sources.arithmetic(random.Random(seed), limit),
    }


def in_validation(domain, key):
    if domain == "arithmetic":
        return key.startswith("validation ")
    if key.startswith("common-licenses/"):
        return False  # too few files to hold any of them back: validation is made of what other packages add
    share = 200 if domain == "licences" else sources.VALIDATION_SHARE  # many packages, but few of them add a new paragraph
    return sources.bucket(domain + " " + key) < share


def make(domain, documents, limit):
    """Two lists of distinct texts in an order that depends on the keys alone, cut at `limit` bytes."""
    seen, split = set(), {"train": [], "validation": []}
    for key, text in documents:
        mark = text if domain == "arithmetic" else sources.digest(text)
        if mark not in seen:
            seen.add(mark)
            split["validation" if in_validation(domain, key) else "train"].append((sources.bucket("order " + key), key, text))
    for part, share in (("train", 1000), ("validation", 2 * sources.VALIDATION_SHARE)):
        total, kept = 0, []
        for _, _, text in sorted(split[part]):
            size = len(text.encode())
            if total + size <= limit * share // 1000:
                total += size
                kept.append(text)
        split[part] = kept
    return split


def write_jsonl(path, records):
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--bytes", type=int, default=4_500_000, help="at most this much training text a domain")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for domain, read in readers(options.bytes, options.seed).items():
        split = make(domain, read(), options.bytes)
        for part, texts in split.items():
            write_jsonl(options.out / f"{part}.{domain}.jsonl", ({"text": text} for text in texts))
            print(f"{part:10} {domain:13} {len(texts):7} documents {sum(len(t.encode()) for t in texts):9} bytes", flush=True)


if __name__ == "__main__":
    main()
