#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the committed data of the quick start: four narrow tasks, a probe of the six domains, and text to mix in against forgetting.

The formats of the tasks (prefix notation, JSON objects of a stanza, licence identifiers) do not occur in the corpora of make_corpora.py.
"""
import argparse
import json
import pathlib
import random

import sources
from make_corpora import write_jsonl

TRAIN, TEST = 2000, 200
SECTION_LABELS = ("doc", "games", "golang", "haskell", "java", "javascript", "libdevel", "libs", "perl", "python", "ruby", "rust")
LICENCE_LABELS = ("Apache-2.0", "Artistic", "CC0-1.0", "GFDL-1.3", "GPL-2", "GPL-3", "LGPL-2.1", "LGPL-3", "MPL-1.1", "MPL-2.0")


def arithmetic_prefix(rng):
    """(+ 12 7) -> 19 with operands below 50; the same two operands never occur in both parts, in either order."""
    facts = {}
    for a in range(50):
        for b in range(50):
            facts.setdefault(("+", min(a, b), max(a, b)), []).append(("+", a, b, a + b))
            if a >= b:
                facts.setdefault(("-", b, a), []).append(("-", a, b, a - b))
    keys = sorted(facts)
    rng.shuffle(keys)
    records = [[{"prompt": f"({sign} {a} {b})", "completion": str(value)} for sign, a, b, value in facts[key]] for key in keys]
    test = [rng.choice(group) for group in records[:TEST]]
    train = [record for group in records[TEST:] for record in group]
    rng.shuffle(train)
    return train[:TRAIN], test


def package_json(rng):
    """A short stanza -> its name and section as one JSON object. No source package gives records to both parts."""
    by_source = {}
    for source, text in sources.packages("task"):
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        name, version, section = fields["Package"], fields["Version"], fields.get("Section", "")
        if len(name) > 16 or len(version) > 16 or not section:
            continue
        record = {"prompt": f"Package: {name}\nVersion: {version}\nSection: {section}",
                  "completion": json.dumps({"name": name, "section": section}, separators=(",", ":"))}
        by_source.setdefault(source, {})[name] = record
    chosen = [rng.choice([group[name] for name in sorted(group)]) for _, group in sorted(by_source.items())]
    rng.shuffle(chosen)
    return chosen[TEST:TEST + TRAIN], chosen[:TEST]


def package_section(rng, per_label_train=90, per_label_test=16):
    """Name and one-line description of a package -> its section as a JSON object. Twelve balanced sections; split by source package."""
    by_label = {label: {} for label in SECTION_LABELS}
    for source, text in sources.packages("task"):
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        prompt = f"Package: {fields['Package']}\nDescription: {fields.get('Description', '')}"
        if fields.get("Section") in by_label and len(prompt) <= 110:
            by_label[fields["Section"]].setdefault(source, []).append(
                {"prompt": prompt, "completion": json.dumps({"section": fields["Section"]}, separators=(",", ":"))})
    train, test = [], []
    held_out = set()
    for label, groups in sorted(by_label.items()):
        names = sorted(groups)
        rng.shuffle(names)
        names = [name for name in names if name not in held_out]
        held_out.update(names[:per_label_test])
        test += [rng.choice(groups[name]) for name in names[:per_label_test]]
    for label, groups in sorted(by_label.items()):
        names = [name for name in sorted(groups) if name not in held_out]
        rng.shuffle(names)
        train += [rng.choice(groups[name]) for name in names[:per_label_train]]
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test


def licence_id(rng, per_label_train=150, per_label_test=20):
    """An excerpt of a licence -> its identifier, as many of each. Train and test excerpts share no word position of a text,
    and an excerpt with six words in a row that another of these licences also has is left out: it would have two answers."""
    texts = {name: sources.common_licences()[name].split() for name in LICENCE_LABELS}
    span = 6

    def grams(tokens):
        return {" ".join(tokens[i:i + span]).lower() for i in range(len(tokens) - span + 1)}

    owner = {name: grams(tokens) for name, tokens in texts.items()}
    train, test = [], []
    for name, tokens in texts.items():
        others = set().union(*(owner[other] for other in texts if other != name))

        def excerpts(begin, end):
            for start in range(begin, end):
                stop = start
                while stop < end and len(" ".join(tokens[start:stop + 1]).encode()) <= 150:
                    stop += 1
                piece = tokens[start:stop]
                if stop < end and len(piece) > 12 and not grams(piece) & others:
                    yield {"prompt": " ".join(piece), "completion": name}

        # each fifth of the text gives its first three quarters to train and its last quarter to test
        for_train, for_test = [], []
        for part in range(5):
            begin, end = len(tokens) * part // 5, len(tokens) * (part + 1) // 5
            cut = begin + (end - begin) * 3 // 4
            for_train += excerpts(begin, cut)
            for_test += excerpts(cut, end)
        train += rng.sample(for_train, min(per_label_train, len(for_train)))
        test += rng.sample(for_test, min(per_label_test, len(for_test)))
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test


def sample(corpora, part, domain, rng, byte_count, longest):
    """Pieces of whole lines from different documents of one part of a domain."""
    with open(corpora / f"{part}.{domain}.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    rng.shuffle(texts)
    records, total, round_number = [], 0, 0
    while total < byte_count and round_number < 40:
        for text in texts:
            lines, piece = text.splitlines(keepends=True), ""
            start = 0 if round_number == 0 else rng.randrange(len(lines))
            for line in lines[start:]:
                if len((piece + line).encode()) > longest:
                    break
                piece += line
            if len(piece) >= 60 and piece not in records and total + len(piece.encode()) <= byte_count + 200:
                records.append(piece)
                total += len(piece.encode())
        round_number += 1
    return [{"text": piece} for piece in records]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=pathlib.Path, required=True, help="what make_corpora.py wrote")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def write(name, records):
        path = options.out / f"{name}.jsonl"
        write_jsonl(path, records)
        print(f"{name:26} {len(records):5} records {path.stat().st_size:8} bytes", flush=True)

    for task in (arithmetic_prefix, package_json, package_section, licence_id):
        train, test = task(random.Random(options.seed))
        prompts = {record["prompt"] for record in train}
        assert not any(record["prompt"] in prompts for record in test)
        write(task.__name__ + ".train", train)
        write(task.__name__ + ".test", test)
    mix = []
    for domain in sources.DOMAINS:
        rng = random.Random(f"{options.seed} {domain}")
        write("probe." + domain, sample(options.corpora, "validation", domain, rng, 20_000, 1000))
        mix += sample(options.corpora, "train", domain, rng, 24_000, 600)
    random.Random(options.seed).shuffle(mix)
    write("alignment", [record for record in mix if "https://" not in record["text"]])  # no addresses in the committed text


if __name__ == "__main__":
    main()
