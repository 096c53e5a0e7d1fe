#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""10 000 lines of mixed text through `esft tokenize` and the package `tokenizers`, for every family: ids must be equal, and so must texts.

    tests/interop/tokenizers.py PATH/TO/esft [LINES [SEED]]
"""
import json
import pathlib
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent
sys.path[0] = str(here.parent / "golden" / "tokenizers")  # not this folder: this file has the name of the package

import families  # noqa: E402
from tokenizers import Tokenizer, __version__  # noqa: E402


def run(tool, path, lines, *options):
    command = [tool, "tokenize", "--tokenizer", str(path), *options]
    done = subprocess.run(command, input=b"".join(line + b"\n" for line in lines), capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.decode()}")
    result = done.stdout.split(b"\n")[:-1]
    assert len(result) == len(lines), f"{len(result)} lines came back, {len(lines)} were sent"
    return result


def broken(texts):
    """Bytes that are no UTF-8: texts cut within characters, with single bytes put between."""
    return [text.encode()[:-1].replace(b"e", b"\xff").replace(b"\n", b"\xc3") for text in texts]


def compare(tool, name, texts, corpus, folder):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(families.train(name, corpus, 1500)))
    reference = Tokenizer.from_file(str(path))
    ours = run(tool, path, [json.dumps(text).encode() for text in texts], "--json-lines")
    wanted = [encoding.ids for encoding in reference.encode_batch(texts, add_special_tokens=False)]
    different = [i for i, line in enumerate(ours) if [int(word) for word in line.split()] != wanted[i]]
    for i in different[:5]:
        print(f"  {name}: {ascii(texts[i])}\n    ours      {ours[i].decode()}\n    reference {wanted[i]}")
    framed = run(tool, path, [json.dumps(text).encode() for text in texts[:100]], "--json-lines", "--framed")
    different += [i for i, line in enumerate(framed) if [int(word) for word in line.split()] != reference.encode(texts[i]).ids]
    # texts of one line: a newline within would end the line
    whole = [i for i in range(len(texts)) if "\n" not in reference.decode(wanted[i])]
    decoded = run(tool, path, [" ".join(map(str, wanted[i])).encode() for i in whole], "--decode")
    undone = [i for i, line in zip(whole, decoded) if line.decode("utf-8", "replace") != reference.decode(wanted[i])]
    for i in undone[:5]:
        print(f"  {name}: decoding {wanted[i]} differs from {ascii(reference.decode(wanted[i]))}")
    lost = []
    if name in ("deepseek_v2", "deepseek_v3"):  # no normalizer and no token in brackets: bytes must come back as they went
        sent = [line for line in broken(texts) if b"<" not in line]
        there = run(tool, path, sent)
        lost = [i for i, back in enumerate(run(tool, path, there, "--decode")) if back != sent[i]]
        print(f"{name}: {len(sent)} lines that are no UTF-8, {len(lost)} lost")
    print(f"{name}: {len(texts)} texts, {len(different)} encoded otherwise; {len(whole)} decoded, {len(undone)} otherwise")
    return bool(different or undone or lost)


def main(tool, count=10000, seed=11):
    corpus = families.SENTENCES * 4 + families.texts(400, 7)
    texts = families.texts(int(count), int(seed))
    print(f"tokenizers {__version__}, {len(texts)} texts, seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        failed = [name for name in families.FAMILIES if compare(tool, name, texts, corpus, pathlib.Path(folder))]
    if failed:
        raise SystemExit("differs: " + ", ".join(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
