#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Measures what the goals of the CPU backend need and prints each: measured, floor, goal. Ten minutes or more; for people, not for CI.
#
#   benchmarks/goals.sh cpu [DIRECTORY]     results (JSON) go to DIRECTORY, default build/goals/results
#
# Exit code: 0 every floor is reached; 1 a floor is missed; 2 none is missed but something could not be built or run; 3 wrong usage.
# Environment: ESFT_OFFICIAL_DATA  directory of the published ESFT results, default ../shared/data/esft-official beside the checkout
#                                  (routing replayed from its logs; without it: Zipf routing)
#              ESFT_PYTHON         a Python that has torch (default python3)
#              ESFT_REPETITIONS    repetitions of every case (default 5)
#              ESFT_BENCH_PATIENCE   seconds that a repetition waits for a quiet machine before it starts (default 5)
#              ESFT_RUN_UNDER      a command to put before every timed program: taskset, a lock, ...
#              ESFT_GOALS_BUILD    build folder (default build/goals)
#              ESFT_GOALS_STEPS    which measurements to run (default "float bf16 backward low_rank threads linear step layer"; "peers" adds
#                                  what no goal needs: OpenBLAS and oneDNN in float); those left out are taken from DIRECTORY if they are
#                                  there, and the table says so where they are of another commit or CPU
# Afterwards `benchmarks/goals.py DIRECTORY --document` writes docs/benchmarks/cpu.md and docs/benchmarks/raw/ from DIRECTORY.
set -eu
if [ "${1:-}" != cpu ]; then
  sed -n '3,6p' "$0" >&2
  exit 3
fi
cd "$(dirname "$0")/.."
build=${ESFT_GOALS_BUILD:-build/goals}
out=${2:-$build/results}
steps=${ESFT_GOALS_STEPS:-float bf16 backward low_rank threads linear step layer}
repetitions=${ESFT_REPETITIONS:-5}
python=${ESFT_PYTHON:-python3}
export ESFT_BENCH_PATIENCE="${ESFT_BENCH_PATIENCE:-5}"
failed=0
unmeasured() {
  echo "goals.sh: could not measure: $1" >&2
  failed=1
}
fatal() {
  unmeasured "$1"
  exit 2
}
mkdir -p "$out" || fatal "no folder $out"

cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DESFT_BUILD_TESTS=OFF -DESFT_BUILD_EXAMPLES=OFF -DESFT_BUILD_TOOLS=OFF \
  > "$out/configure.log" || fatal "cmake, see $out/configure.log"
cmake --build "$build" --target esft_benchmarks > "$out/build.log" || fatal "the build, see $out/build.log"
program=$build/benchmarks/esft_benchmarks

# What each step's file says of where it comes from.
word() { tr ',=' '  ' | head -n 1; }
commit=$(git describe --always --dirty --abbrev=10 --exclude='*' 2> /dev/null | word)
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2> /dev/null | word)
compiler=$(c++ --version 2> /dev/null | word)
context="commit=${commit:-unknown},cpu=${cpu:-unknown},compiler=${compiler:-unknown}"

# run NAME FILTER: one program run of all cases that match, repetitions in random order. A run that fails leaves no file, nor one of before.
run() {
  echo "measuring: $1" >&2
  rm -f "$out/$1.json"
  if ${ESFT_RUN_UNDER:-} "$program" --benchmark_filter="$2" --benchmark_repetitions="$repetitions" \
    --benchmark_enable_random_interleaving=true --benchmark_min_time=0.15 --benchmark_context="$context" \
    --benchmark_out="$out/$1.part" --benchmark_out_format=json > "$out/$1.log" 2>&1 && mv "$out/$1.part" "$out/$1.json"; then
    tail -n 8 "$out/$1.log" | grep '^ceiling' >&2 || true
  else
    tail -n 5 "$out/$1.log" >&2 || true
    unmeasured "$1"
  fi
}

# The routing of the layer: a published log where there is one.
published=../shared/data/esft-official
if [ -z "${ESFT_OFFICIAL_DATA:-}" ] && [ -d "$published" ]; then
  ESFT_OFFICIAL_DATA=$(cd "$published" && pwd)
  export ESFT_OFFICIAL_DATA
fi
routing=zipf selection=p8
if [ -f "${ESFT_OFFICIAL_DATA:-}/intent/expert_weights_11.txt" ]; then routing=intent_11 selection=intent_11; fi
products='v2_lite/(gate_up|down)'

for step in $steps; do
  case $step in
    float)  # rows an expert 16 32 64 128 512
      run float "^(ceiling/float_flops/threads2|$products/esft/float/T(171|342|683|1366|5462)/uniform/none/threads2|$products/eigen_loop/float/T(171|342|683|1366)/uniform/none/threads2)/"
      ;;
    bf16)  # rows an expert 16 32 64 96 128 512
      run bf16 "^(ceiling/(bf16_flops|read_bytes)/threads2|$products/esft/bf16/T(171|342|683|1024|1366|5462)/uniform/none/threads2|$products/onednn_(loop|split)/bf16/T(171|342|683|1366|5462)/uniform/none/threads2|$products/esft/float/T(1366|5462)/uniform/none/threads2)/"
      ;;
    backward)
      run backward "^v2_lite/layer_forward_backward/esft/(bf16/T1024|bf16/T4096|float/T1024)/$routing/($selection|all)/threads2/"
      ;;
    low_rank)
      run low_rank "^v2_lite/layer_low_rank/esft/(bf16/T1024|bf16/T4096|float/T1024)/uniform/all/threads2/"
      ;;
    threads)
      run threads "^v2_lite/layer_two_threads/esft/(bf16/T1024|bf16/T4096|float/T1024)/zipf/p8/threads2/"
      ;;
    linear)
      run linear "^(ceiling/adamw_bytes/threads2|v2_lite/(adamw_selected/esft/bf16/T1024|dW_selected/esft/bf16/T1024)/uniform/first(1|2|4|8|16|32)/threads2)/"
      ;;
    step)
      run step "^v2_lite/step/esft/(bf16/T1024|bf16/T4096|float/T1024)/random/first5/threads2/"
      ;;
    peers)
      run peers "^(ceiling/float_flops/threads2|$products/(esft|openblas_loop|onednn_loop|onednn_split)/float/T(171|683|5462)/uniform/none/threads2)/"
      ;;
    layer)
      # The goal is about bf16 with AMX. Where PyTorch has no fast bf16, ours in both types is shown beside its float.
      dtypes='(bf16|float)' their_dtypes=float
      if grep -qw avx512_bf16 /proc/cpuinfo 2> /dev/null; then their_dtypes=bf16,float; fi
      if grep -qw amx_bf16 /proc/cpuinfo 2> /dev/null; then dtypes=bf16 their_dtypes=bf16; fi
      for tokens in 512 4096; do
        "$program" --print_case v2_lite $tokens "$routing" "$selection" > "$out/case_$tokens.json" || unmeasured "a case for PyTorch"
      done
      filter="^v2_lite/layer_forward_backward/esft/$dtypes/T(512|4096)/$routing/$selection/threads2/"
      run layer_before "$filter"
      rm -f "$out/pytorch.jsonl"
      if "$python" -c 'import torch' 2> /dev/null; then
        echo "measuring: PyTorch" >&2
        # Whether it is the same layer: once, on the bundled shape, with the same inputs and weights.
        "$program" --print_case bundled 512 zipf p8 > "$out/case_same.json" && "$program" --dump_layer bundled 512 zipf p8 "$out/same.bin" &&
          "$python" benchmarks/pytorch_layer.py --same "$out/same.bin" "$out/case_same.json" > "$out/same.jsonl" ||
          unmeasured "whether PyTorch's layer gives what ours does, see $out/same.jsonl"
        if ${ESFT_RUN_UNDER:-} "$python" benchmarks/pytorch_layer.py --threads 2 --dtypes "$their_dtypes" --repetitions "$repetitions" \
          --ceilings "$program" "$out/case_512.json" "$out/case_4096.json" > "$out/pytorch.part"; then
          mv "$out/pytorch.part" "$out/pytorch.jsonl"
        else
          unmeasured PyTorch
        fi
      else
        echo "no torch in $python: the row against PyTorch is not run" >&2
      fi
      run layer_after "$filter"
      ;;
    *)
      echo "no step '$step'" >&2
      exit 3
      ;;
  esac
done
code=0
python3 benchmarks/goals.py "$out" || code=$?
case $code in
  0 | 1) ;;
  *) code=2 ;;
esac
if [ $code -eq 0 ] && [ $failed -ne 0 ]; then code=2; fi
exit $code
