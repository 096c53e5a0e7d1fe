#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Measures what the goals of the CPU backend need and prints each: measured, floor, goal. Ten minutes or more; for people, not for CI.
#
#   benchmarks/goals.sh cpu [DIRECTORY]     results (JSON) go to DIRECTORY, default build/goals/results
#
# Exit code: 0 every floor is reached; 1 a floor is missed; 2 none is missed but a row could not be run; 3 wrong usage.
# Environment: ESFT_OFFICIAL_DATA  directory of the published ESFT results (routing replayed from its logs; without it: Zipf routing)
#              ESFT_PYTHON         a Python that has torch (default python3)
#              ESFT_REPETITIONS    repetitions of every case (default 5)
#              ESFT_BENCH_PATIENCE   seconds that a repetition waits for a quiet machine before it starts (default 5)
#              ESFT_RUN_UNDER      a command to put before every timed program: taskset, a lock, ...
#              ESFT_GOALS_BUILD    build folder (default build/goals)
#              ESFT_GOALS_STEPS    which measurements to run (default "float bf16 backward low_rank threads linear step layer"; "peers" adds what no
#                                  goal needs: OpenBLAS and oneDNN in float); those left out are taken from DIRECTORY if they are there
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
mkdir -p "$out"

cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DESFT_BUILD_TESTS=OFF -DESFT_BUILD_EXAMPLES=OFF -DESFT_BUILD_TOOLS=OFF > "$out/configure.log"
cmake --build "$build" --target esft_benchmarks > "$out/build.log"
program=$build/benchmarks/esft_benchmarks

{
  grep -m1 'model name' /proc/cpuinfo | sed 's/.*: //'
  nproc
  c++ --version | head -n 1
  git rev-parse --short=10 HEAD
  date -u +%Y-%m-%d
} > "$out/machine.txt" 2> /dev/null || true

# run NAME FILTER: one program run of all cases that match, repetitions in random order.
run() {
  echo "measuring: $1" >&2
  ${ESFT_RUN_UNDER:-} "$program" --benchmark_filter="$2" --benchmark_repetitions="$repetitions" --benchmark_enable_random_interleaving=true \
    --benchmark_min_time=0.15 --benchmark_out="$out/$1.json" --benchmark_out_format=json > "$out/$1.log" 2>&1 || {
    tail -5 "$out/$1.log" >&2
    return 1
  }
  tail -n 8 "$out/$1.log" | grep '^ceiling' >&2 || true
}

# The routing of the layer: a published log where there is one.
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
      run backward "^v2_lite/(layer_forward/esft/(bf16/T1024|bf16/T4096|float/T1024)/$routing/none|layer_forward_backward/esft/(bf16/T1024|bf16/T4096|float/T1024)/$routing/($selection|all))/threads2/"
      ;;
    low_rank)
      run low_rank "^v2_lite/layer_low_rank/esft/(bf16/T1024|bf16/T4096|float/T1024)/uniform/all/threads2/"
      ;;
    threads)
      run threads "^v2_lite/layer_forward_backward/esft/(bf16/T1024|bf16/T4096|float/T1024)/zipf/p8/threads[12]/"
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
      for tokens in 512 4096; do "$program" --print_case v2_lite $tokens "$routing" "$selection" > "$out/case_$tokens.json"; done
      filter="^v2_lite/layer_forward_backward/esft/bf16/T(512|4096)/$routing/$selection/threads2/"
      run layer_before "$filter"
      if "$python" -c 'import torch' 2> /dev/null; then
        echo "measuring: PyTorch" >&2
        ${ESFT_RUN_UNDER:-} "$python" benchmarks/pytorch_layer.py --threads 2 --dtypes bf16 --repetitions "$repetitions" --ceilings "$program" \
          "$out/case_512.json" "$out/case_4096.json" > "$out/pytorch.jsonl"
      else
        rm -f "$out/pytorch.jsonl"
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
exec python3 benchmarks/goals.py "$out"
