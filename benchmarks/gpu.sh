#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds, tests, measures and sanitizes the GPU backend on a machine with an NVIDIA GPU, in one go, and writes one Markdown table. Downloads nothing.
#
#   benchmarks/gpu.sh [DIRECTORY [EXPERT_CFG]]     table and logs go to DIRECTORY, default build/gpu/results;
#                                                  EXPERT_CFG selects the experts of the DeepSeek-V2-Lite-sized step
#
# Needs nvcc, CMake, a C++20 compiler, Eigen, Boost, GoogleTest, RapidCheck. Exit code: 0 every step passed; 1 one failed or could not run.
# Environment: ESFT_GPU_BUILD  build folder (default build/gpu)
#              ESFT_CUDA_CODE  compute capability to compile for (default: the first device's)
set -u
cd "$(dirname "$0")/.."
build=${ESFT_GPU_BUILD:-build/gpu}
out=${1:-$build/results}
selection=${2:-}
mkdir -p "$out"
table=$out/gpu.md
failed=0

for tool in nvcc nvidia-smi cmake; do
  command -v "$tool" > /dev/null && continue
  echo "gpu.sh: $tool is not in PATH: this needs a machine with an NVIDIA GPU, its driver, the CUDA toolkit and CMake" >&2
  exit 1
done
if ! nvidia-smi -L 2> /dev/null | grep -q '^GPU '; then
  echo "gpu.sh: cuda: no device" >&2
  exit 1
fi

code=${ESFT_CUDA_CODE:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1 | tr -d .)}
[ "$code" = 90 ] && code=90a
code=${code:-80}

row() { printf '| %s | %s | %s |\n' "$1" "$2" "$3" >> "$table"; }
# step NAME LOG COMMAND...: runs it, writes its row
step() {
  name=$1
  log=$out/$2
  shift 2
  begin=$(date +%s)
  if "$@" > "$log" 2>&1; then result=passed; else
    result="**failed**"
    failed=1
  fi
  # What was skipped did not pass.
  if [ "$result" = passed ] && grep -q -e 'SKIP: ' -e 'Skipped' "$log"; then
    result="**not run**: $(grep -m 1 -e 'SKIP: ' -e 'Skipped' "$log")"
    failed=1
  fi
  row "$name" "$result" "$(($(date +%s) - begin)) s"
  echo "$name: $result"
}

{
  echo "# GPU backend"
  echo
  echo "| what | value | |"
  echo "|---|---|---|"
} > "$table"
row machine "$(nvidia-smi --query-gpu=name,memory.total --format=csv,noheader 2> /dev/null | head -n 1 || true)" ""
row driver "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2> /dev/null | head -n 1 || true)" ""
row toolkit "$(nvcc --version 2> /dev/null | grep release || echo 'nvcc is not in PATH')" "sm_$code"
row commit "$(git rev-parse --short=10 HEAD 2> /dev/null || echo unknown)" "$(date -u +%Y-%m-%d)"

step configure configure.log cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DESFT_WITH_CUDA=ON "-DESFT_CUDA_CODE=$code" \
  -DESFT_BUILD_EXAMPLES=OFF
step build build.log cmake --build "$build" --parallel --target test_cuda test_end_to_end esft_tool esft_gpu_figures esft_gpu_step
step "tests with the label gpu" tests.log ctest --test-dir "$build" -L gpu --no-tests=error --output-on-failure
program=$build/tests/cuda/test_cuda
for tool in memcheck racecheck initcheck; do
  if command -v compute-sanitizer > /dev/null; then
    step "compute-sanitizer $tool" "$tool.log" compute-sanitizer --tool "$tool" --error-exitcode 9 "$program" \
      --gtest_filter='cuda_behaviour.*:-*more_memory*:*failed_allocation*'
  else
    row "compute-sanitizer $tool" "not run: compute-sanitizer is not in PATH" ""
    failed=1
  fi
done

# The bundled model, all weights, 50 steps: the loss of the GPU within 1e-4 of the CPU's.
losses() {
  for backend in cuda eigen; do
    "$build/bin/esft" train --backend "$backend" --dtype float32 --model examples/quickstart/model --method full --steps 50 --save-every 0 \
      --data examples/quickstart/data/package_section.train.jsonl --out "$out/run-$backend" || return 1
  done
  for backend in cuda eigen; do
    grep -o '"loss":[^,}]*' "$out/run-$backend/metrics.jsonl" | tail -n 1 | cut -d: -f2
  done | awk '{ loss[NR] = $1 } END { d = (loss[1] - loss[2]) / loss[2]; print loss[1], loss[2], d; exit !(NR == 2 && d * d <= 1e-8) }'
}
rm -rf "$out/run-cuda" "$out/run-eigen"
step "50 steps as eigen, within 1e-4" train.log losses

step figures figures.md "$build/benchmarks/esft_gpu_figures"
grep '^|' "$out/figures.md" >> "$table"
step "steps of a DeepSeek-V2-Lite-sized model" step.md "$build/benchmarks/esft_gpu_step" ${selection:+"$selection"}
grep '^|' "$out/step.md" >> "$table"

cat "$table"
exit "$failed"
