# SPDX-License-Identifier: Apache-2.0
"""Reads the six text domains from packages of a Debian 12 system. Each reader yields (key, text) documents.

The key names the unit that train and validation never share: a chapter, a source file, a licence file, a source package.
"""
import collections
import hashlib
import pathlib
import re
import subprocess

DOMAINS = ("scripture_en", "scripture_es", "python", "licences", "packages", "arithmetic")
STDLIB = pathlib.Path("/usr/lib/python3.11")
LICENCES = pathlib.Path("/usr/share/common-licenses")
COPYRIGHTS = pathlib.Path("/usr/share/doc")
APT_LISTS = pathlib.Path("/var/lib/apt/lists")
TASK_SHARE, VALIDATION_SHARE = 140, 30  # per mille of the packages kept for the task, per mille kept for validation


def bucket(key):
    """A number in [0, 1000) that depends on the key alone: the split survives any change of order or of the set."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 1000


def words(text):
    return re.findall(r"\w+", text.lower())


def digest(text):
    return hashlib.sha256(" ".join(words(text)).encode()).digest()


def scripture(module):
    """One document a chapter: its name, then a verse a line, without verse numbers, notes and the headings that diatheke repeats."""
    dump = subprocess.run(["diatheke", "-b", module, "-f", "plain", "-k", "Gen-Rev"], check=True, capture_output=True).stdout
    label = re.compile(r"^\s*([^\s:][^:]* \d+):\d+: ?(.*)$")
    chapters = collections.OrderedDict()
    for line in dump.decode("utf-8", "replace").splitlines():
        found = label.match(line)
        if found:
            verse = re.sub(r"<[HG]\d+>|\u00b6", " ", found.group(2))
            verse = re.sub(r" ([,.;:?!])", r"\1", re.sub(r"\s+", " ", verse)).strip()
            if verse:
                chapters.setdefault(found.group(1), []).append(verse)
    for name, verses in chapters.items():
        yield name, name + "\n" + "\n".join(verses) + "\n"


def python_files():
    skipped = {"test", "tests", "idle_test", "idlelib", "encodings", "pydoc_data", "turtledemo", "__pycache__", "dist-packages", "site-packages"}
    for path in sorted(STDLIB.rglob("*.py")):
        relative = path.relative_to(STDLIB)
        if skipped.intersection(relative.parts) or path.is_symlink() or path.name.startswith("_sysconfigdata"):
            continue
        text = path.read_text("utf-8", "replace")
        if 400 < len(text) < 120_000:
            yield str(relative), text


def licence_paragraphs(text):
    """Paragraphs of a copyright file. Of a machine-readable one only the licence bodies: no file lists, holders or identifiers, and nowhere addresses."""
    if "Format:" in text[:400]:
        bodies, keep = [], False
        for line in text.splitlines():
            if re.match(r"^\S", line):
                keep = line.lower().startswith("license:")
                bodies.append("")
            elif keep:
                bodies.append("" if line.strip() == "." else line[1:])
            else:
                bodies.append("")
        text = "\n".join(bodies)
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [re.sub(r"\s+", " ", line).strip() for line in paragraph.splitlines()]
        paragraph = "\n".join(line for line in lines if line)
        if len(words(paragraph)) >= 12 and "@" not in paragraph and not re.search(r"(?m)^(License|Files|Copyright): ", paragraph):
            yield paragraph


def common_licences():
    """{file name: text} of the regular files (the links without a version are left out)."""
    return {p.name: p.read_text("utf-8", "replace") for p in sorted(LICENCES.iterdir()) if p.is_file() and not p.is_symlink()}


def licences():
    """Each distinct paragraph once: first the common licences whole, then what the packages' copyright files add to them."""
    seen, shingles = set(), set()

    def fresh(paragraph):
        key, parts = digest(paragraph), words(paragraph)
        grams = {tuple(parts[i:i + 8]) for i in range(max(1, len(parts) - 7))}
        if key in seen or len(grams & shingles) * 2 > len(grams):
            return False
        seen.add(key)
        shingles.update(grams)
        return True

    for name, text in common_licences().items():
        for paragraph in licence_paragraphs(text):
            fresh(paragraph)
        yield "common-licenses/" + name, text
    for path in sorted(COPYRIGHTS.glob("*/copyright")):
        if path.is_symlink() or not path.is_file():
            continue
        kept = [p for p in licence_paragraphs(path.read_text("utf-8", "replace")) if fresh(p)]
        if kept:
            yield path.parent.name, "\n\n".join(kept) + "\n"


def stanzas():
    """Every binary package of the main archive as a dictionary of its fields."""
    for path in sorted(APT_LISTS.glob("*_Packages*")):
        text = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(path)], check=True, capture_output=True).stdout.decode("utf-8", "replace")
        for block in text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
            if "Package" in fields:
                fields["source"] = fields.get("Source", fields["Package"]).split()[0]
                yield fields


def packages(share="corpus"):
    """Short stanzas. The split is by source package: `task` ones never reach the corpus."""
    for fields in stanzas():
        for_task = bucket("task " + fields["source"]) < TASK_SHARE
        if for_task != (share == "task"):
            continue
        depends = ", ".join(re.sub(r" \([^)]*\)", "", d).split(" | ")[0] for d in fields.get("Depends", "").split(", ")[:4])
        lines = [f"{name}: {value}" for name, value in (
            ("Package", fields["Package"]), ("Version", fields.get("Version", "")), ("Section", fields.get("Section", "")),
            ("Installed-Size", fields.get("Installed-Size", "")), ("Depends", depends), ("Description", fields.get("Description", ""))) if value]
        yield fields["source"], "\n".join(lines) + "\n"


def arithmetic(rng, byte_count):
    """Infix lines and short word problems, about 24 a document. A fact is held out of training by its operands, not by its line."""
    names = "Ana Ben Carla Dan Eva Finn Gita Hugo Ida Jon".split()
    things = "apples books coins cups eggs keys nuts pens stones tickets".split()

    def fact():
        kind, top = rng.random(), (50 if rng.random() < 0.75 else 100)
        a, b = rng.randrange(top), rng.randrange(top)
        if kind < 0.45:
            return "+", a, b, a + b
        if kind < 0.82:
            return "-", max(a, b), min(a, b), abs(a - b)
        if kind < 0.92:
            a, b = rng.randrange(13), rng.randrange(13)
            return "*", a, b, a * b
        a, b = rng.randrange(100, 1000), rng.randrange(100, 1000)
        return "+", a, b, a + b

    def line(held_out):
        while True:
            sign, a, b, result = fact()
            if (bucket(f"{sign} {min(a, b)} {max(a, b)}") < VALIDATION_SHARE) == held_out:
                break
        if rng.random() < 0.85 or sign == "*":
            return f"{a} {sign} {b} = {result}"
        who, what = rng.choice(names), rng.choice(things)
        if sign == "+":
            return f"{who} has {a} {what} and gets {b} more. Now {who} has {result} {what}."
        return f"{who} has {a} {what} and gives {b} away. Now {who} has {result} {what}."

    for held_out, wanted in ((False, byte_count), (True, byte_count * VALIDATION_SHARE // 1000)):
        total = number = 0
        while total < wanted:
            text = "\n".join(line(held_out) for _ in range(24)) + "\n"
            total, number = total + len(text), number + 1
            yield ("validation " if held_out else "train ") + str(number), text
