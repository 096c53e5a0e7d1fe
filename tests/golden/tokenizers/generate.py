#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the small tokenizers of families.py and writes what the package `tokenizers` makes of mixed text with them.

    pip install tokenizers==0.23.3 && python3 tests/golden/tokenizers/generate.py

Writes <family>.json, each a tokenizer.json, and golden.json beside this file.
"""
import json
import pathlib
import random

import families
import tokenizers

here = pathlib.Path(__file__).resolve().parent


def golden_texts():
    rng = random.Random(3)
    groups = ["".join(families.PIECES[i:i + 5]) for i in range(0, len(families.PIECES), 5)]
    groups += ["x ".join(families.PIECES[i:i + 7]) for i in range(0, len(families.PIECES), 7)]
    framed = [rng.choice(["", "a", " ", "1  ", "é\t"]) + token + rng.choice(["", "b", "  ", " \n c", "²"]) for token in families.TOKENS * 2]
    runs = ["a" * 70, " " * 70, "\n" * 9 + " " * 9 + "\n" * 3, "  \n  x", "1" * 20, "!" * 20, "中" * 20, "\U0001f44d" * 5]
    mixed = [families.mixed_text(rng) for _ in range(15)]
    return ["", " ", "a", " a", "a ", "\u0301", "\u00a0", *runs, *families.SENTENCES, *groups, *framed, *mixed]


if __name__ == "__main__":
    texts = golden_texts()
    corpus = families.SENTENCES * 4 + families.texts(300, 7)
    result = {"tokenizers": tokenizers.__version__, "texts": texts, "families": {}}
    for name in families.FAMILIES:
        path = here / f"{name}.json"
        path.write_text(json.dumps(families.train(name, corpus, 560), ensure_ascii=False, separators=(",", ":")))
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        # every third text, cut inside: decoding begins and ends within characters
        parts = [tokenizer.decode(own[1:-1]) for own in ids[::3]]
        result["families"][name] = {"ids": ids, "framed": tokenizer.encode(texts[15]).ids, "parts": parts,
                                    "decoded": [tokenizer.decode(own) for own in ids[:60:4]]}
    (here / "golden.json").write_text(json.dumps(result, separators=(",", ":")))
