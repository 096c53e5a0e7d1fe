#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goals of the CPU backend from the results of goals.sh: one row a goal, with what was measured, the floor and the goal.

usage: goals.py DIRECTORY [--document]
With --document it writes the block of docs/benchmarks/cpu.md between its two marks, and the times of every repetition to
docs/benchmarks/raw/; it refuses where the results in DIRECTORY are not all of one commit, CPU and routing.
Every figure is a median of one run. A row is judged by its worst case; the cases are printed below the table. A share compares each
repetition with the largest of the ceilings measured right before and right after it and of their median over the run. A repetition is quiet
if both were measured and at 80 % or more of the best of the run; where three or more are quiet the others are left out, where fewer are,
the case is marked noisy. So is a ratio that cannot be: a backward below its ideal, two threads more than twice as fast as one.
Exit code: 0 every floor is reached; 1 a floor is missed; 2 none is missed but a row could not be judged; 3 wrong usage, or nothing written.
"""
import json
import pathlib
import re
import statistics
import sys
import traceback

QUIET = 0.8
FEWEST = 3
AMX = 1  # `ceiling_kind` of the tile products (ceilings.hpp)
LAYER_STEPS = ("backward", "layer_before", "layer_after")


class NotRun(Exception):
    """A figure that this run cannot give, and why."""


class Results:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.files = {}
        self.contexts = {}

    def steps(self):
        """Names of all that was measured."""
        return [path.stem for path in sorted(self.directory.glob("*.json")) if not path.name.startswith("case_")]

    def sources(self):
        """(commit, CPU) of each step, "?" where its file does not say."""
        found = {}
        for step in self.steps():
            try:
                self.read(step)
            except NotRun:
                continue
            found[step] = tuple(self.contexts[step].get(key, "?") for key in ("commit", "cpu"))
        return found

    def routings(self):
        """(routing, selection) of the layers."""
        found = set()
        for step in LAYER_STEPS:
            try:
                for name in self.read(step)[0]:
                    parts = name.split("/")
                    if parts[1:3] == ["layer_forward_backward", "esft"] and parts[6] != "all":
                        found.add((parts[5], parts[6]))
            except NotRun:
                pass
        return sorted(found)

    def mixed(self):
        """What keeps these results from being one run; empty where nothing does."""
        reasons = []
        sources = self.sources()
        if len(set(sources.values())) > 1 or any("?" in s for s in sources.values()):
            named = [f"{step}: commit {commit}, {cpu}" for step, (commit, cpu) in sources.items()]
            reasons.append("steps of different runs: " + "; ".join(named))
        if len(self.routings()) > 1:
            reasons.append("routings " + ", ".join(routing for routing, _ in self.routings()))
        return reasons

    def read(self, step):
        if step not in self.files:
            path = self.directory / f"{step}.json"
            if not path.exists():
                raise NotRun(f"{path.name} is missing")
            rows = {}
            try:
                file = json.loads(path.read_text())
            except ValueError:
                raise NotRun(f"{path.name} is cut off") from None
            self.contexts[step] = file.get("context", {})
            for row in file["benchmarks"]:
                if row.get("run_type") == "iteration":
                    rows.setdefault(re.sub(r"(/repeats:\d+)?(/(real|manual)_time)?$", "", row["name"]), []).append(row)
            seen = {}  # kind and threads of a ceiling -> what each repetition saw of it
            for name, entries in rows.items():
                for row in entries:
                    if row.get("ceiling_before", 0) > 0:
                        row["ceiling"] = (row["ceiling_kind"], name.rsplit("/", 1)[1])
                        seen.setdefault(row["ceiling"], []).append(max(row["ceiling_before"], row["ceiling_after"]))
            best = {kind: max(values) for kind, values in seen.items()}
            for entries in rows.values():
                for row in entries:
                    if "ceiling" in row:
                        row["ceiling_then"] = max(row["ceiling_before"], row["ceiling_after"], statistics.median(seen[row["ceiling"]]))
            self.files[step] = rows, best
        return self.files[step]

    def case(self, step, name):
        rows, best = self.read(step)
        if name not in rows:
            raise NotRun(f"no {name} (a library that was absent when the suite was built?)")
        entries = rows[name]
        for row in entries:
            if row.get("error_occurred"):
                raise NotRun(f"{name}: {row['error_message']}")
        quiet = [r for r in entries if "ceiling" in r and min(r["ceiling_before"], r["ceiling_after"]) >= QUIET * best[r["ceiling"]]]
        return Case(quiet if len(quiet) >= FEWEST else entries, len(quiet) < FEWEST)

    def ceiling(self, step, kind):
        rows, best = self.read(step)
        name = f"ceiling/{kind}/threads2"
        for key, entries in rows.items():
            if key.startswith(name):
                rates = [r["rate"] for r in entries if not r.get("error_occurred")]
                if rates:
                    return max(rates)
        raise NotRun(f"this CPU has no {name}")


class Case:
    def __init__(self, entries, noisy):
        self.noisy = noisy
        self.entries = entries
        scale = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}
        self.times = [r["real_time"] * scale[r["time_unit"]] for r in entries]
        self.time = statistics.median(self.times)

    def median(self, counter):
        if any(counter not in r for r in self.entries):
            raise NotRun(f"no counter {counter}: measured by an older suite")
        return statistics.median(r[counter] for r in self.entries)

    def share(self, ideal):
        """Median over the repetitions of ideal(ceiling at that time) / seconds."""
        return statistics.median(ideal(r["ceiling_then"]) / t for r, t in zip(self.entries, self.times))

    def __getitem__(self, counter):
        return self.entries[0][counter]


TOKENS = {16: 171, 32: 342, 64: 683, 96: 1024, 128: 1366, 512: 5462}


def expert(results, step, backend, dtype, rows):
    """Both products of an expert's forward."""
    return [results.case(step, f"v2_lite/{op}/{backend}/{dtype}/T{TOKENS[rows]}/uniform/none/threads2") for op in ("gate_up", "down")]


def seconds_of(parts):
    return sum(p.time for p in parts)


def noisy(*groups):
    return any(p.noisy for parts in groups for p in parts)


def share(parts, ideal):
    """Of all parts together: the mean of their shares by time."""
    return sum(p.share(lambda ceiling, p=p: ideal(p, ceiling)) * p.time for p in parts) / seconds_of(parts), noisy(parts)


def share_of_peak(results, step, dtype, rows):
    results.ceiling(step, "bf16_flops" if dtype == "bf16" else "float_flops")
    return share(expert(results, step, "esft", dtype, rows), lambda p, ceiling: p["flops"] / ceiling)


def share_of_roofline(results, rows):
    results.ceiling("bf16", "bf16_flops")
    read = results.ceiling("bf16", "read_bytes")
    return share(expert(results, "bf16", "esft", "bf16", rows), lambda p, ceiling: max(p["flops"] / ceiling, p["bytes"] / read))


def against(results, step, theirs, dtype, rows):
    """Seconds of the best of `theirs` over ours."""
    if dtype == "bf16":
        results.ceiling(step, "bf16_flops")  # the goals are about AMX
    mine = expert(results, step, "esft", dtype, rows)
    best = min((expert(results, step, kind, dtype, rows) for kind in theirs), key=seconds_of)
    return seconds_of(best) / seconds_of(mine), noisy(mine, best)


def against_float(results, rows):
    results.ceiling("bf16", "bf16_flops")
    as_float, as_bf16 = (expert(results, "bf16", "esft", dtype, rows) for dtype in ("float", "bf16"))
    return seconds_of(as_float) / seconds_of(as_bf16), noisy(as_float, as_bf16)


def layer_case(results, step, op, dtype, tokens, selection, routing=None):
    rows, _ = results.read(step)
    for name in rows:
        parts = name.split("/")
        if (parts[1:5] == [op, "esft", dtype, f"T{tokens}"] and parts[7] == "threads2" and
                (routing is None or parts[5] == routing) and
                (parts[6] == selection or (selection == "esft" and parts[6] not in ("none", "all")))):
            return results.case(step, name)
    raise NotRun(f"{step}: no {op} {dtype} T{tokens} {selection}")


def backward_over_forward(results, dtype, tokens, selection):
    case = layer_case(results, "backward", "layer_forward_backward", dtype, tokens, selection)
    value = case.median("backward_over_forward")
    ideal = 1 + case.median("slot_share")  # gradients of all rows, and of the weights for those of trained experts
    return value, case.noisy or value < ideal, f"ideal {ideal:.2f}"


def two_threads(results, dtype, tokens):
    case = layer_case(results, "threads", "layer_two_threads", dtype, tokens, "esft", "zipf")
    value = case.median("two_threads")
    return value, case.noisy or value > 2


def low_rank_against_frozen(results, dtype, tokens):
    case = layer_case(results, "low_rank", "layer_low_rank", dtype, tokens, "all")
    return case.median("against_frozen"), case.noisy


def largest_share(results, dtype, tokens):
    """Of what is no product, in a step of one layer: the largest share, and all of them in words."""
    case = results.case("step", f"v2_lite/step/esft/{dtype}/T{tokens}/random/first5/threads2")
    shares = {part: case.median(part) for part in PARTS}
    largest = max(shares, key=shares.get)
    return shares[largest], case.noisy, ", ".join(f"{part} {100 * share:.1f} %" for part, share in shares.items())


def against_pytorch(results, dtype, tokens, their_dtype=None):
    """Seconds of PyTorch's fastest layer over ours."""
    their_dtype = their_dtype or dtype
    around = ("layer_before", "layer_after")
    ours = [layer_case(results, step, "layer_forward_backward", dtype, tokens, "esft") for step in around]
    if dtype == their_dtype == "bf16" and any(case["ceiling_kind"] != AMX for case in ours):
        raise NotRun("this CPU has no tiles")  # the goal is about AMX
    path = results.directory / "pytorch.jsonl"
    if not path.exists():
        raise NotRun("no torch: set ESFT_PYTHON to a Python that has it")
    full = QUIET * max(results.read(step)[1].get(case.entries[0].get("ceiling"), 0) for step, case in zip(around, ours))
    theirs = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["dtype"] == their_dtype and row["tokens"] == tokens and "step_s" in row:
            quiet = [s for s, seen in zip(row["step_s"], row.get("ceilings", [])) if min(seen) >= full > 0]
            theirs[row["kind"]] = statistics.median(quiet if len(quiet) >= FEWEST else row["step_s"]), len(quiet) < FEWEST
            version = row["torch"].split("+")[0]
    if not theirs:
        raise NotRun(f"PyTorch ran no {their_dtype} layer of {tokens} tokens")
    kind = min(theirs, key=theirs.get)
    their_seconds, their_noise = theirs[kind]
    seconds = statistics.median([t for case in ours if not case.noisy or all(o.noisy for o in ours) for t in case.times])
    return (their_seconds / seconds, their_noise or all(o.noisy for o in ours),
            f"PyTorch {version} {kind} {1e3 * their_seconds:.0f} ms, ours {1e3 * seconds:.0f} ms")


SELECTED = (1, 2, 4, 8, 16, 32)


def selections(results, op):
    return [results.case("linear", f"v2_lite/{op}/esft/bf16/T1024/uniform/first{n}/threads2") for n in SELECTED]


def adamw_share(results, which):
    case = selections(results, "adamw_selected")[which]
    return case.share(lambda ceiling: case["bytes"] / ceiling), case.noisy


def fit(xs, ys):
    """Least squares on relative residuals, y = a + b x: a, b, R^2 of the same weights, largest |relative residual|."""
    weights = [1 / (y * y) for y in ys]
    total = sum(weights)
    mx = sum(w * x for w, x in zip(weights, xs)) / total
    my = sum(w * y for w, y in zip(weights, ys)) / total
    slope = sum(w * (x - mx) * (y - my) for w, x, y in zip(weights, xs, ys)) / sum(w * (x - mx) ** 2 for w, x in zip(weights, xs))
    start = my - slope * mx
    r2 = 1 - (sum(w * (y - start - slope * x) ** 2 for w, x, y in zip(weights, xs, ys)) /
              sum(w * (y - my) ** 2 for w, y in zip(weights, ys)))
    return start, slope, r2, max(abs((start + slope * x) / y - 1) for x, y in zip(xs, ys))


def linear_costs(results):
    lines = []
    for what, op, x, y, unit in (("time of dW", "dW_selected", "rows_used", None, "selected rows"),
                                 ("time of AdamW", "adamw_selected", "parameters", None, "selected parameters"),
                                 ("bytes of state", "adamw_selected", "parameters", "state_bytes", "selected parameters")):
        cases = selections(results, op)
        xs = [c[x] for c in cases]
        ys = [c.time if y is None else c[y] for c in cases]
        start, slope, r2, worst = fit(xs, ys)
        scale, name = (1e3, "ms") if y is None else (1, "bytes")
        lines.append(f"{what} = {start * scale:.3g} {name} + {slope * scale:.3g} {name} x {unit}; "
                     f"relative residuals: R^2 {r2:.5f}, largest {100 * worst:.1f} %; "
                     f"{len(cases)} selections of 1 to {SELECTED[-1]} experts")
    return lines


PARTS = ("attention", "rms_norm", "rope", "cross_entropy", "adamw")
LAYERS = (("bf16", 1024), ("bf16", 4096), ("float", 1024))


def goals(results):
    """(what, floor, goal, unit, smaller is better, [(label, how to get value and noise)])"""
    def rows(names, f):
        return [(f"{n} rows", lambda n=n: f(n)) for n in names]

    return [
        ("float grouped forward, 64-512 rows an expert, share of FMA peak", .60, .80, "%", False,
         rows((64, 128, 512), lambda n: share_of_peak(results, "float", "float", n))),
        ("float grouped forward, 16 rows, share of FMA peak", .35, .55, "%", False,
         rows((16,), lambda n: share_of_peak(results, "float", "float", n))),
        ("float against the Eigen loop, rows <= 128", 1.3, 1.5, "x", False,
         rows((16, 32, 64, 128), lambda n: against(results, "float", ("eigen_loop",), "float", n))),
        ("float against the Eigen loop, 16-32 rows", 1.7, 2.5, "x", False,
         rows((16, 32), lambda n: against(results, "float", ("eigen_loop",), "float", n))),
        ("bf16 grouped forward, >= 128 rows, share of AMX peak", .40, .60, "%", False,
         rows((128, 512), lambda n: share_of_peak(results, "bf16", "bf16", n))),
        ("bf16 grouped forward, 16-96 rows, share of the roofline", .50, .80, "%", False,
         rows((16, 32, 64, 96), lambda n: share_of_roofline(results, n))),
        ("bf16 against our float, >= 128 rows", 5, 8, "x", False,
         rows((128, 512), lambda n: against_float(results, n))),
        ("bf16 against the oneDNN loop, rows 16-512", 1.0, 1.3, "x", False,
         rows((16, 32, 64, 128, 512), lambda n: against(results, "bf16", ("onednn_loop", "onednn_split"), "bf16", n))),
        ("V2-Lite layer forward+backward, ESFT selection, bf16, against PyTorch's best", 2.5, 4, "x", False,
         [(f"{t} tokens", lambda t=t: against_pytorch(results, "bf16", t)) for t in (512, 4096)]),
        ("ESFT backward / forward time (ideal 1.22, full fine-tuning 2.0)", 1.6, 1.35, "", True,
         [(f"{d}, {t} tokens", lambda d=d, t=t: backward_over_forward(results, d, t, "esft")) for d, t in LAYERS]),
        ("LoRA of rank 8 on every routed row, forward + backward against the frozen layer's", 1.25, 1.1, "x", True,
         [(f"{d}, {t} tokens", lambda d=d, t=t: low_rank_against_frozen(results, d, t)) for d, t in LAYERS]),
        ("two threads against one under Zipf routing", 1.7, 1.9, "x", False,
         [(f"{d}, {t} tokens", lambda d=d, t=t: two_threads(results, d, t)) for d, t in LAYERS]),
        ("masked AdamW, share of the streaming ceiling", .60, .85, "%", False,
         [(f"{n} experts", lambda i=i: adamw_share(results, i)) for i, n in ((2, 4), (3, 8), (4, 16))]),
        # AdamW runs once a step, however many tokens that has: 4096 are few
        ("attention, RMSNorm, RoPE, cross-entropy, AdamW: the largest share of a layer's step", .15, .15, "%", True,
         [("bf16, 4096 tokens", lambda: largest_share(results, "bf16", 4096))]),
    ]


def shown(value, unit):
    return f"{100 * value:.0f} %" if unit == "%" else f"{value:.2f}{unit}"


def judge(results):
    """Rows of the table, the cases behind each, how many floors are missed, how many rows could not be judged."""
    table, details, missed, unjudged = [], [], 0, 0
    for what, floor, goal, unit, smaller, cases in goals(results):
        values, notes = [], []
        for label, get in cases:
            try:
                value, noisy, *note = get()
                values.append((value, noisy))
                notes.append(f"{label}: {shown(value, unit)}" + (" (noisy)" if noisy else "") + (f" ({note[0]})" if note else ""))
            except NotRun as why:
                notes.append(f"{label}: not run, {why}")
        worst, noise = (max if smaller else min)(values) if values else (None, False)

        def reaches(limit):
            return worst <= limit if smaller else worst >= limit

        if len(values) < len(cases):
            verdict = "NOT RUN"
            unjudged += 1
        elif reaches(floor):
            verdict = "PASS, goal reached" if reaches(goal) else "PASS"
        else:
            verdict = "FLOOR MISSED"
            missed += 1
        if noise:
            verdict += " (noisy)"
        table.append((what, "-" if worst is None else shown(worst, unit), shown(floor, unit), shown(goal, unit), verdict))
        details.append((what, notes))
    try:
        details.append(("cost against selection", linear_costs(results)))
    except NotRun as why:
        unjudged += 1
        details.append(("cost against selection", [f"not run, {why}"]))
    try:
        full = [f"{d}, {t} tokens: {backward_over_forward(results, d, t, 'all')[0]:.2f}" for d, t in LAYERS]
        details.append(("for comparison: backward / forward time of full fine-tuning", full))
    except NotRun:
        pass
    try:
        lines = []
        for tokens in (512, 4096):
            for dtype in ("float", "bf16"):
                value, noisy, note = against_pytorch(results, dtype, tokens, "float")
                lines.append(f"ours in {dtype}, {tokens} tokens: {value:.2f}x" + (" (noisy)" if noisy else "") + f" ({note})")
        details.append(("for information, no goal: the layer forward+backward against PyTorch's best in float", lines))
    except NotRun:
        pass
    try:
        shares = [f"{d}, 1024 tokens: {largest_share(results, d, 1024)[2]}" for d in ("bf16", "float")]
        details.append(("for comparison: shares of a layer's step of few tokens", shares))
    except NotRun:
        pass
    return [("what (worst case)", "measured", "floor", "goal", ""), *table], details, missed, unjudged


def header(results):
    """What the table stands for, in lines."""
    routings = [f"{routing} (selection {selection})" + ("" if re.search(r"_\d+$", routing) else
                                                       ", synthetic: without the published logs, see ESFT_OFFICIAL_DATA")
                for routing, selection in results.routings()]
    lines = [f"Routing of the layer: {'; '.join(routings) or 'not run'}. The V2-Lite layer is its router and its 64 routed experts, "
             "without the shared ones, here and in PyTorch."]
    return lines + [f"NOT ONE RUN: {reason}" for reason in results.mixed()]


def print_table(table, details):
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print("\ncases")
    for what, notes in details:
        print(f"  {what}")
        for note in notes:
            print(f"    {note}")


def speeds(results):
    """Markdown table of the expert's forward in GFLOP/s by rows an expert, for every library that was measured."""
    lines = ["| rows an expert | " + " | ".join(f"{d} {b}" for d, b in SPEEDS) + " |", "|---" * (len(SPEEDS) + 1) + "|"]
    for rows in TOKENS:
        cells = []
        for dtype, backend in SPEEDS:
            best = None
            for step in ("bf16",) if dtype == "bf16" else ("float", "peers"):
                try:
                    parts = expert(results, step, backend, dtype, rows)
                    best = max(best or 0, sum(p["flops"] for p in parts) / seconds_of(parts))
                except NotRun:
                    pass
            cells.append("" if best is None else f"{best * 1e-9:.0f}")
        if any(cells):
            lines.append(f"| {rows} | " + " | ".join(cells) + " |")
    return lines


SPEEDS = [("float", b) for b in ("esft", "eigen_loop", "onednn_loop", "onednn_split", "openblas_loop")] + [
    ("bf16", b) for b in ("esft", "onednn_loop", "onednn_split")]


def write_document(results, table, details, root):
    page = root / "cpu.md"
    text = page.read_text()
    start, end = "<!-- written by benchmarks/goals.py: begin -->", "<!-- written by benchmarks/goals.py: end -->"
    context = results.contexts[results.steps()[0]]
    machine = {key: context.get(key, "?") for key in ("cpu", "num_cpus", "compiler", "commit", "date")}
    block = [f"Machine: {machine['cpu']}, {machine['num_cpus']} cores (virtual, shared). Compiler: {machine['compiler']}. "
             f"Commit {machine['commit']}, {machine['date'][:10]}. "
             "Command: `benchmarks/goals.sh cpu`. Every repetition: [raw/goals.json](raw/goals.json).", "", *header(results), ""]
    for number, row in enumerate(table):
        block.append("| " + " | ".join(row) + " |")
        if number == 0:
            block.append("|---" * 5 + "|")
    block += ["", "The cases behind each row:", "", "```"]
    for what, notes in details:
        block += [what, *("  " + note for note in notes)]
    block += ["```", "", "Forward of the experts of one DeepSeek-V2-Lite layer (gate_up and down, uniform routing), two threads, GFLOP/s:", "",
              *speeds(results)]
    before, rest = text.split(start)
    page.write_text(before + start + "\n\n" + "\n".join(block) + "\n\n" + end + rest.split(end)[1])
    raw = {"machine": machine, "milliseconds": {}}
    for step in results.steps():
        rows, _ = results.read(step)
        raw["milliseconds"][step] = {
            name: {"times": [round(r["real_time"], 4) for r in entries],
                   **{k: entries[0][k] for k in ("rate", "flops", "bytes", "state_bytes") if k in entries[0]},
                   **{k: [round(r[k], 4) for r in entries] for k in RATIOS if k in entries[0]},
                   **({"ceiling_g": [round(min(r["ceiling_before"], r["ceiling_after"]) * 1e-9) for r in entries]}
                      if "ceiling" in entries[0] else {})}
            for name, entries in rows.items() if not any(r.get("error_occurred") for r in entries)}
    torch = results.directory / "pytorch.jsonl"
    if torch.exists():
        raw["pytorch"] = [json.loads(line) for line in torch.read_text().splitlines()]
    (root / "raw").mkdir(exist_ok=True)
    (root / "raw" / "goals.json").write_text(json.dumps(raw, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")


RATIOS = ("backward_over_forward", "two_threads", "against_frozen")


def main(arguments, root=pathlib.Path(__file__).resolve().parent.parent / "docs" / "benchmarks"):
    if not arguments:
        print(__doc__.strip(), file=sys.stderr)
        return 3
    results = Results(arguments[0])
    table, details, missed, unjudged = judge(results)
    print("\n".join(header(results)), end="\n\n")
    print_table(table, details)
    if "--document" in arguments:
        if not results.steps() or results.mixed():
            print("goals.py: no document of what is not one run", file=sys.stderr)
            return 3
        write_document(results, table, details, root)
    return 1 if missed else 2 if unjudged else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Exception:  # exit code 1 would say that a floor is missed
        traceback.print_exc()
        sys.exit(2)
