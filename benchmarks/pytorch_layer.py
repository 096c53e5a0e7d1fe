#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same MoE layer in PyTorch, forward and backward, weight gradients of the selected experts only. One JSON line a case.

usage: pytorch_layer.py [--threads N] [--repetitions N] [--kinds eager,grouped] [--dtypes bf16,float] [--ceilings PROGRAM] CASE.json...
       pytorch_layer.py --same FILE CASE.json
A case is what `esft_benchmarks --print_case SHAPE TOKENS ROUTING SELECTION` prints: sizes, routing, selected experts.
Kinds: eager, a loop over the experts, each with weights of its own so that autograd can leave out the frozen ones;
grouped, torch._grouped_mm over stacked weights (it has no per-expert freezing, so it runs as two calls: selected experts, frozen experts).
No shared experts, as in the layer of esft_benchmarks.
With --ceilings, PROGRAM (esft_benchmarks) measures the machine's ceiling before and after each repetition, and waits up to
ESFT_BENCH_PATIENCE seconds for a quiet machine before it, as it does for its own cases.
With --same nothing is timed: FILE is what `esft_benchmarks --dump_layer` wrote of the case, and y and dx must come out as they did there.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F


def parameter(*shape, dtype, trained):
    return torch.nn.Parameter((torch.randn(*shape) / math.sqrt(shape[-1])).to(dtype), requires_grad=trained)


class Layer:
    """Router, dispatch, experts, combine. The router does all its work and then sends the tokens where the case says."""

    def __init__(self, case, dtype):
        self.case = case
        self.ids = torch.tensor(case["ids"], dtype=torch.int64).view(case["tokens"], case["active"])
        self.router = parameter(case["experts"], case["width"], dtype=dtype, trained=False)

    def route(self, x):
        scores = F.linear(x, self.router).float().softmax(-1)
        torch.topk(scores, self.case["active"], sorted=True)
        return scores.gather(1, self.ids)


class EagerLayer(Layer):
    def __init__(self, case, dtype):
        super().__init__(case, dtype)
        width, inner, selected = case["width"], case["inner"], set(case["selected"])
        self.gate_up = [parameter(2 * inner, width, dtype=dtype, trained=e in selected) for e in range(case["experts"])]
        self.down = [parameter(width, inner, dtype=dtype, trained=e in selected) for e in range(case["experts"])]

    def take(self, gate_up, down):
        for e in range(self.case["experts"]):
            self.gate_up[e].data.copy_(gate_up[e])
            self.down[e].data.copy_(down[e])

    def forward(self, x):
        weights = self.route(x)
        y = torch.zeros_like(x)
        for e in range(self.case["experts"]):
            token, place = torch.where(self.ids == e)
            if token.numel() == 0:
                continue
            gate, up = F.linear(x[token], self.gate_up[e]).chunk(2, dim=-1)
            out = F.linear(F.silu(gate) * up, self.down[e])
            y.index_add_(0, token, out * weights[token, place].unsqueeze(-1).to(out.dtype))
        return y


class GroupedLayer(Layer):
    def __init__(self, case, dtype):
        super().__init__(case, dtype)
        width, inner = case["width"], case["inner"]
        selected = list(case["selected"])
        frozen = [e for e in range(case["experts"]) if e not in set(selected)]
        self.stacks = []
        for experts, trained in ((selected, True), (frozen, False)):
            if experts:
                # [E, K, N] with N contiguous in K: how a row-major [N, K] weight is handed to the grouped product
                self.stacks.append((experts, parameter(len(experts), 2 * inner, width, dtype=dtype, trained=trained),
                                    parameter(len(experts), width, inner, dtype=dtype, trained=trained)))

    def take(self, gate_up, down):
        for experts, mine_gate_up, mine_down in self.stacks:
            mine_gate_up.data.copy_(gate_up[experts])
            mine_down.data.copy_(down[experts])

    def forward(self, x):
        weights = self.route(x).to(x.dtype)
        flat = self.ids.flatten()
        y = torch.zeros_like(x)
        for experts, gate_up, down in self.stacks:
            place = torch.full((self.case["experts"],), -1, dtype=torch.int64)
            place[experts] = torch.arange(len(experts))
            local = place[flat]
            slots = torch.where(local >= 0)[0]
            slots = slots[torch.argsort(local[slots], stable=True)]
            ends = torch.bincount(local[slots], minlength=len(experts)).cumsum(0).to(torch.int32)
            token = slots // self.case["active"]
            gate, up = torch._grouped_mm(x[token], gate_up.transpose(-2, -1), offs=ends).chunk(2, dim=-1)
            out = torch._grouped_mm((F.silu(gate) * up).contiguous(), down.transpose(-2, -1), offs=ends)
            y = y.index_add(0, token, out * weights.flatten()[slots].unsqueeze(-1))
        return y


class Ceilings:
    """What the machine gives before and after each repetition, by the program that measures our own cases."""

    def __init__(self, program, dtype, threads):
        self.command = [program, "--await_ceiling", dtype, str(threads)]
        self.patience = os.environ.get("ESFT_BENCH_PATIENCE", "0")
        self.best = 0.0

    def now(self, patience="0"):
        rate = float(subprocess.run([*self.command, str(self.best), patience], check=True, capture_output=True, text=True).stdout)
        self.best = max(self.best, rate)
        return rate

    def wait(self):
        return self.now(self.patience)


def measure(layer, case, dtype, repetitions, ceilings):
    x = torch.randn(case["tokens"], case["width"]).to(dtype).requires_grad_()
    dy = (0.01 * torch.randn(case["tokens"], case["width"])).to(dtype)
    forward, step, seen = [], [], []
    for repetition in range(repetitions + 1):
        x.grad = None
        before = ceilings.wait() if ceilings else 0
        start = time.perf_counter()
        y = layer.forward(x)
        middle = time.perf_counter()
        y.backward(dy)  # gradients of the weights add up, as between two optimizer steps
        end = time.perf_counter()
        if repetition > 0:
            forward.append(middle - start)
            step.append(end - start)
            if ceilings:
                seen.append((before, ceilings.now()))
    return forward, step, seen


KINDS = {"eager": EagerLayer, "grouped": GroupedLayer}


def compare(case, path, kinds):
    """0 where y and dx of every kind agree with those in the file, to rounding."""
    tokens, width, inner, experts = (case[key] for key in ("tokens", "width", "inner", "experts"))
    shapes = [(tokens, width), (tokens, width), (experts, width), (experts, 2 * inner, width), (experts, width, inner), (tokens, width),
              (tokens, width)]
    everything = torch.from_file(path, size=os.path.getsize(path) // 4, dtype=torch.float32)
    parts = everything.split([math.prod(shape) for shape in shapes])
    given, dy, router, gate_up, down, expected_y, expected_dx = (part.view(shape) for part, shape in zip(parts, shapes))
    worst = 0.0
    for kind in kinds:
        layer = KINDS[kind](case, torch.float32)
        layer.router.data.copy_(router)
        layer.take(gate_up, down)
        x = given.clone().requires_grad_()
        y = layer.forward(x)
        y.backward(dy)
        differences = [((found - expected).abs().max() / expected.abs().max()).item() for found, expected in
                       ((y.detach(), expected_y), (x.grad, expected_dx))]
        print(json.dumps({"kind": kind, "shape": case["shape"], "y_differs": differences[0], "dx_differs": differences[1]}), flush=True)
        worst = max(worst, *differences)
    return 0 if worst < 1e-5 else 1


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--repetitions", type=int, default=5)
    arguments.add_argument("--kinds", default="eager,grouped")
    arguments.add_argument("--dtypes", default="bf16,float")
    arguments.add_argument("--ceilings", metavar="PROGRAM")
    arguments.add_argument("--same", metavar="FILE")
    arguments.add_argument("cases", nargs="+")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    for path in options.cases:
        with open(path) as file:
            case = json.load(file)
        if options.same:
            return compare(case, options.same, options.kinds.split(","))
        for name in options.dtypes.split(","):
            dtype = {"bf16": torch.bfloat16, "float": torch.float32}[name]
            ceilings = Ceilings(options.ceilings, name, options.threads) if options.ceilings else None
            for kind in options.kinds.split(","):
                row = {"kind": kind, "dtype": name, "torch": torch.__version__, "threads": options.threads}
                row.update({key: case[key] for key in ("shape", "tokens", "routing", "selection")})
                if kind == "grouped" and not hasattr(torch, "_grouped_mm"):
                    row["skipped"] = "this PyTorch has no torch._grouped_mm"
                else:
                    try:
                        layer = KINDS[kind](case, dtype)
                        forward, step, seen = measure(layer, case, dtype, options.repetitions, ceilings)
                        row.update(forward_s=forward, step_s=step, ceilings=seen, forward_median_s=statistics.median(forward),
                                   step_median_s=statistics.median(step))
                        del layer
                    except (RuntimeError, NotImplementedError) as fault:
                        row["skipped"] = str(fault).split("\n")[0]
                print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
