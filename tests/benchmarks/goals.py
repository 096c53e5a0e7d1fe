#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What goals.py makes of small results, and the exit codes of goals.sh where nothing can be measured. No PyTorch, no benchmark is run."""
import contextlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "benchmarks"))
import goals  # noqa: E402

HERE = {"commit": "1111111111", "cpu": "a CPU", "num_cpus": 2, "compiler": "c++ 12", "date": "2026-01-02T03:04:05+00:00"}
FLOAT, AMX = 0, 1


def case(name, repetitions=5, time=100.0, ceilings=100e9, kind=FLOAT, **counters):
    """Rows of a case as Google Benchmark writes them. A list gives each repetition its own value; `ceilings` None: none measured."""
    rows = []
    for i in range(repetitions):
        def at(value):
            return value[i] if isinstance(value, list) else value
        row = {"name": f"{name}/repeats:{repetitions}/real_time", "run_type": "iteration", "real_time": at(time), "time_unit": "ms",
               **{key: at(value) for key, value in counters.items()}}
        if ceilings is not None:
            row.update(ceiling_kind=kind, ceiling_before=at(ceilings), ceiling_after=at(ceilings))
        rows.append(row)
    return rows + [{"name": f"{name}_median", "run_type": "aggregate", "real_time": 0}]


def layer(dtype, tokens, selection="intent_11", op="layer_forward_backward", routing="intent_11"):
    return f"v2_lite/{op}/esft/{dtype}/T{tokens}/{routing}/{selection}/threads2"


class with_results(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.results = goals.Results(self.directory)

    def write(self, step, *cases, context=HERE):
        (self.directory / f"{step}.json").write_text(json.dumps({"context": context, "benchmarks": sum(cases, [])}))

    def write_backward(self, ratio, name=None, context=HERE, **more):
        self.write("backward", *[case(name or layer(dtype, tokens), backward_over_forward=ratio, slot_share=.22, **more)
                                 for dtype, tokens in goals.LAYERS], context=context)

    def backward(self):
        return goals.backward_over_forward(self.results, "bf16", 1024, "esft")

    def main(self, *arguments, root=None):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
            code = goals.main([str(self.directory), *arguments], root or self.directory)
        return code, out.getvalue(), error.getvalue()


class noise(with_results):
    def test_is_seen_in_bf16_that_is_held_against_the_ceiling_of_float(self):
        self.write_backward(1.5, ceilings=[100e9, 30e9, 40e9, 20e9, 99e9])
        self.assertTrue(self.backward()[1])
        self.results = goals.Results(self.directory)
        self.write_backward([1.5, 9.0, 1.6, 1.7, 9.0], ceilings=[100e9, 30e9, 95e9, 99e9, 30e9])
        value, noisy, _ = self.backward()
        self.assertFalse(noisy)
        self.assertEqual(value, 1.6)  # the two that were disturbed are left out

    def test_is_assumed_where_no_ceiling_was_measured(self):
        for nothing in (None, 0.0):
            with self.subTest(nothing):
                self.results = goals.Results(self.directory)
                self.write_backward(1.5, ceilings=nothing)
                self.assertTrue(self.backward()[1])

    def test_is_what_an_impossible_ratio_is_called(self):
        for ratio, impossible in ((1.21, True), (1.23, False)):
            self.results = goals.Results(self.directory)
            self.write_backward(ratio)
            self.assertEqual(self.backward(), (ratio, impossible, "ideal 1.22"))
        for ratio, impossible in ((2.01, True), (1.99, False)):
            self.results = goals.Results(self.directory)
            self.write("threads", case(layer("float", 1024, "p8", "layer_two_threads", "zipf"), two_threads=ratio))
            self.assertEqual(goals.two_threads(self.results, "float", 1024), (ratio, impossible))


class goals_about_tiles(with_results):
    def layers(self, kind):
        for step in ("layer_before", "layer_after"):
            self.write(step, *[case(layer(dtype, tokens), kind=kind, time=100.0) for dtype in ("float", "bf16") for tokens in (512, 4096)])
        rows = [{"kind": "eager", "dtype": dtype, "tokens": tokens, "torch": "2.0+cpu", "step_s": [.3] * 3, "ceilings": [[100e9, 100e9]] * 3}
                for dtype in ("float", "bf16") for tokens in (512, 4096)]
        (self.directory / "pytorch.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def test_are_not_run_without_them(self):
        self.layers(FLOAT)
        with self.assertRaisesRegex(goals.NotRun, "no tiles"):
            goals.against_pytorch(self.results, "bf16", 512)
        value, noisy, _ = goals.against_pytorch(self.results, "bf16", 512, "float")
        self.assertAlmostEqual(value, 3)
        self.assertFalse(noisy)
        self.assertIn("ours in bf16, 512 tokens: 3.00x", self.main()[1])

    def test_are_run_with_them(self):
        self.layers(AMX)
        self.assertAlmostEqual(goals.against_pytorch(self.results, "bf16", 512)[0], 3)


class ratios(with_results):
    def test_are_the_median_of_those_of_each_repetition(self):
        self.write_backward([1.4, 1.3, 1.9, 1.5, 1.25], time=[100, 900, 100, 100, 100])
        self.assertEqual(self.backward()[0], 1.4)

    def test_of_an_older_suite_are_not_run(self):
        self.write("backward", case(layer("bf16", 1024), slot_share=.22), case(layer("bf16", 1024, "none", "layer_forward")))
        with self.assertRaisesRegex(goals.NotRun, "older suite"):
            self.backward()

    def test_a_floor_that_is_missed_is_exit_code_1_and_a_row_that_is_not_run_2(self):
        self.write_backward(1.5)
        self.assertEqual(self.main()[0], 2)
        self.write_backward(1.7)
        self.assertEqual(self.main()[0], 1)
        (self.directory / "backward.json").write_text('{"context": {"commit": "1111')
        code, out, _ = self.main()
        self.assertEqual(code, 2)
        self.assertIn("cut off", out)


class one_run(with_results):
    def setUp(self):
        super().setUp()
        self.root = self.directory / "page"
        self.root.mkdir()
        self.page = self.root / "cpu.md"
        self.before = "a\n<!-- written by benchmarks/goals.py: begin -->\nold\n<!-- written by benchmarks/goals.py: end -->\nb\n"
        self.page.write_text(self.before)

    def refused(self, why):
        code, out, _ = self.main("--document", root=self.root)
        self.assertEqual(code, 3)
        self.assertRegex(out, "NOT ONE RUN: .*" + why)
        self.assertEqual(self.page.read_text(), self.before)
        self.assertFalse((self.root / "raw").exists())

    def test_is_documented_with_its_commit_and_routing(self):
        self.write_backward(1.5)
        self.write("threads", case(layer("float", 1024, "p8", "layer_two_threads", "zipf"), two_threads=1.9))
        code, out, _ = self.main("--document", root=self.root)
        self.assertEqual(code, 2)
        self.assertNotIn("NOT ONE RUN", out)
        text = self.page.read_text()
        for part in ("a CPU, 2 cores", "1111111111, 2026-01-02", "Routing of the layer: intent_11", "without the shared ones", "1.50"):
            self.assertIn(part, text)
        self.assertNotIn("synthetic", text)
        self.assertEqual(json.loads((self.root / "raw" / "goals.json").read_text())["machine"]["commit"], "1111111111")

    def test_has_one_commit(self):
        self.write_backward(1.5)
        self.write("threads", context={**HERE, "commit": "2222222222"})
        self.refused("threads: commit 2222222222")

    def test_has_one_cpu(self):
        self.write_backward(1.5)
        self.write("threads", context={**HERE, "cpu": "another"})
        self.refused("threads: commit 1111111111, another")

    def test_says_where_it_comes_from(self):
        self.write_backward(1.5, context={"num_cpus": 2})
        self.refused(r"commit \?")

    def test_has_one_routing(self):
        self.write_backward(1.5)
        self.write("layer_before", case(layer("bf16", 512, "p8", routing="zipf")))
        self.refused("routings intent_11, zipf")

    def test_says_that_a_routing_is_synthetic(self):
        self.write_backward(1.5, name=layer("bf16", 1024, "p8", routing="zipf"))
        self.assertIn("zipf (selection p8), synthetic", self.main()[1])


class fit(unittest.TestCase):
    def test_weighs_residuals_and_what_they_are_held_against_alike(self):
        # by hand: weights 1, 1/4, 1/4; means 3/2 and 4/3; residuals -1/21, 8/21, -4/21, of squares 1/21 in all, beside 1/3 around the mean
        for found, expected in zip(goals.fit([1, 2, 3], [1, 2, 2]), (10 / 21, 4 / 7, 6 / 7, 4 / 21)):
            self.assertAlmostEqual(found, expected)


class goals_sh(unittest.TestCase):
    """With a cmake and a suite that do as the test says."""

    def run_with(self, cmake, suite):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for path, body in ((folder / "bin" / "cmake", cmake), (folder / "build" / "benchmarks" / "esft_benchmarks", suite)):
                path.parent.mkdir(parents=True)
                path.write_text(f"#!/bin/sh\n{body}\n")
                path.chmod(0o755)
            results = folder / "results"
            results.mkdir()
            (results / "float.json").write_text(json.dumps({"context": HERE, "benchmarks": []}))  # of an older run
            environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "ESFT_GOALS_BUILD": str(folder / "build"),
                           "ESFT_GOALS_STEPS": "float backward"}
            done = subprocess.run(["sh", str(ROOT / "benchmarks" / "goals.sh"), "cpu", str(results)], env=environment, text=True,
                                  capture_output=True, check=False)
            return done, {path.name for path in results.iterdir()}

    def test_a_build_that_fails_is_exit_code_2(self):
        done, _ = self.run_with("exit 1", "exit 0")
        self.assertEqual(done.returncode, 2)
        self.assertIn("could not measure", done.stderr)

    def test_a_suite_that_crashes_is_exit_code_2_and_leaves_no_older_result(self):
        done, files = self.run_with("exit 0", "kill -9 $$")
        self.assertEqual(done.returncode, 2)
        self.assertNotIn("float.json", files)
        self.assertIn("could not measure: backward", done.stderr)  # it went on
        self.assertIn("FMA peak", done.stdout)

    def test_each_result_carries_commit_and_cpu(self):
        done, files = self.run_with("exit 0", """
            for a; do case $a in --benchmark_out=*) out=${a#*=} ;; --benchmark_context=*) context=$a ;; esac; done
            echo '{"benchmarks": []}' > "$out"
            case $context in *commit=?*,cpu=?*,compiler=?*) ;; *) exit 1 ;; esac""")
        self.assertNotIn("could not measure", done.stderr)
        self.assertIn("backward.json", files)


if __name__ == "__main__":
    unittest.main()
