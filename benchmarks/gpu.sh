#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds, tests, measures and sanitizes the GPU backend on a machine with an NVIDIA GPU, and writes one Markdown table. Downloads nothing.
#
#   benchmarks/gpu.sh [--steps NAME,...] [DIRECTORY [EXPERT_CFG]]
#
# The table, gpu.md, and the logs go to DIRECTORY, default build/gpu/results; EXPERT_CFG selects the experts of the DeepSeek-V2-Lite-sized
# step, default the published selection for intent, $ESFT_OFFICIAL_DATA/intent/expert_cfg.json; where that is not there, experts 0 to 4 of
# every layer stand in, and the table says so. Figures with a floor say whether they meet it; one that does not fails its step. Steps, in
# their order: build test tool figures step losses memcheck racecheck initcheck. `build` compiles what the other steps of the same call
# need, or everything where it is alone. Every step is stopped after ten minutes at most
# and its row is written when it ends, so that a machine which is lent in pieces can run a few steps at a time: rows of steps that this run
# leaves out are those of earlier runs.
#
# Needs nvcc, CMake, a C++20 compiler, Eigen, Boost, CLI11, toml++, GoogleTest, RapidCheck; where these are not installed, a folder that
# benchmarks/gpu_pack.sh made of them elsewhere. Exit code: 0 every step of this run passed; 1 one failed or could not run.
# Environment: ESFT_GPU_BUILD    build folder (default build/gpu)
#              ESFT_GPU_PACK     folder that gpu_pack.sh made (default build/gpu_pack, where it exists)
#              ESFT_GPU_SECONDS  limit of one step (default 570)
#              ESFT_GPU_TOTAL    limit of all steps of this run together, in seconds (default: none)
#              ESFT_CUDA_CODE    compute capability to compile for (default: the first device's)
#              ESFT_OFFICIAL_DATA  folder of the published selections (default: the pack's, where it has one)
#              ESFT_COMMIT       what the table calls the commit, where there is no git
set -u
cd "$(dirname "$0")/.." || exit 1
steps=build,test,tool,figures,step,losses,memcheck,racecheck,initcheck
if [ "${1:-}" = --steps ]; then
  steps=${2:?gpu.sh: --steps needs a list}
  shift 2
fi
build=${ESFT_GPU_BUILD:-build/gpu}
out=${1:-$build/results}
selection=${2:-}
seconds=${ESFT_GPU_SECONDS:-570}
deadline=${ESFT_GPU_TOTAL:+$(($(date +%s) + ESFT_GPU_TOTAL))}
pack=${ESFT_GPU_PACK:-build/gpu_pack}
published=${ESFT_OFFICIAL_DATA:-$pack/share/esft-official}/intent/expert_cfg.json
[ -z "$selection" ] && [ -r "$published" ] && selection=$published
mkdir -p "$out/rows"
table=$out/gpu.md
failed=0

PATH=$PATH:/usr/local/cuda/bin  # where nvcc and compute-sanitizer are if nobody says
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

# rows FILE: what follows in the table under this name. write_table: all of them so far, in their order.
row() { printf '| %s | %s | %s | | |\n' "$1" "$2" "$3"; }
write_table() {
  {
    echo "# GPU backend"
    echo
    echo "| what | value | | floor | floor met |"
    echo "|---|---|---|---|---|"
    cat "$out"/rows/*.md
  } > "$table.part" && mv "$table.part" "$table"
}
wanted() { case ",$steps," in *",$1,"*) return 0 ;; esac; return 1; }
# step NUMBER-NAME TITLE COMMAND...: runs it, writes its row; the rows of a table that it prints follow
step() {
  file=$out/rows/$1.md
  log=$out/$1.log
  title=$2
  shift 2
  begin=$(date +%s)
  limit=$seconds
  [ -n "$deadline" ] && [ "$((deadline - begin))" -lt "$limit" ] && limit=$((deadline - begin))
  [ "$limit" -gt 0 ] || limit=1
  timeout -k 10 "$limit" "$@" > "$log" 2>&1
  code_of_step=$?
  result=passed
  [ "$code_of_step" = 0 ] || result="**failed** ($code_of_step)"
  [ "$code_of_step" = 3 ] && result="**failed**: a floor is missed"
  [ "$code_of_step" = 124 ] && result="**failed**: stopped after $limit s"
  # What was skipped did not pass, and a machine on which a tool does not work says nothing of us.
  if [ "$code_of_step" = 0 ] || [ "$code_of_step" = 77 ]; then
    grep -q -e 'SKIP: ' -e 'Skipped' "$log" && result="**not run**: $(grep -m 1 -e 'SKIP: ' -e 'Skipped' "$log")"
  elif grep -q 'Device not supported' "$log"; then
    result="**not run**: the tool does not support this device or driver"
  fi
  [ "$result" = passed ] || failed=1
  {
    row "$title" "$result" "$(($(date +%s) - begin)) s"
    grep '^|' "$log" || true
  } > "$file"
  write_table
  echo "$title: $result"
  [ "$result" = passed ] || tail -n 60 "$log"  # the machine, and the log with it, may be gone soon
}

{
  row machine "$(nvidia-smi --query-gpu=name,memory.total --format=csv,noheader 2> /dev/null | head -n 1 || true)" ""
  row driver "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2> /dev/null | head -n 1 || true)" ""
  row toolkit "$(nvcc --version 2> /dev/null | grep release || echo 'nvcc is not in PATH')" "sm_$code"
  row commit "${ESFT_COMMIT:-$(git rev-parse --short=10 HEAD 2> /dev/null || echo unknown)}" "$(date -u +%Y-%m-%d)"
} > "$out/rows/00-machine.md"
write_table

if wanted build; then
  if [ -d "$pack" ]; then
    pack=$(cd "$pack" && pwd)
    CPLUS_INCLUDE_PATH=$pack/include${CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}
    export CPLUS_INCLUDE_PATH
  fi
  # Python packages bring cuBLAS without the name that linkers look for, and not beside nvcc.
  cublas=
  toolkit=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
  if [ -z "$(ls "$toolkit"/lib*/libcublas.so "$toolkit"/targets/*/lib/libcublas.so /usr/lib/*/libcublas.so 2> /dev/null)" ]; then
    mkdir -p "$build/cublas"
    for name in libcublas libcublasLt; do
      library=$(find /usr /opt -name "$name.so.*" -type f 2> /dev/null | head -n 1)
      [ -n "$library" ] || continue
      for link in "$name.so" "$(basename "$library")"; do ln -sf "$library" "$build/cublas/$link"; done
    done
    header=$(find /usr /opt -name cublas_v2.h -type f 2> /dev/null | head -n 1)
    CPLUS_INCLUDE_PATH=${CPLUS_INCLUDE_PATH:+$CPLUS_INCLUDE_PATH:}$(dirname "${header:-.}")
    export CPLUS_INCLUDE_PATH
    cublas=-DCUDA_cublas_LIBRARY=$(cd "$build/cublas" && pwd)/libcublas.so
  fi
  if [ ! -e "$build/CMakeCache.txt" ] && ! command -v make > /dev/null; then
    CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}
    export CMAKE_GENERATOR
  fi
  # Packaged test libraries rely on an older standard library to have included <cstdint> for them.
  step 10-configure configure cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DESFT_WITH_CUDA=ON "-DESFT_CUDA_CODE=$code" \
    "-DCMAKE_PREFIX_PATH=$pack" "-DCMAKE_CXX_FLAGS=-include cstdint" ${cublas:+"$cublas"}
  [ "$result" = passed ] || exit 1
  # One call for each step that needs it: what does not compile leaves the others, and nobody waits for what is not asked for.
  compile() { step "$1" "$2" cmake --build "$build" --parallel "$(nproc)" --target $3; }
  needed() {
    [ "$steps" = build ] && return 0
    for name; do wanted "$name" && return 0; done
    return 1
  }
  if needed figures step; then compile 11-build-figures "build of the figures" "esft_gpu_figures esft_gpu_step"; fi
  if needed test memcheck racecheck initcheck; then compile 12-build-tests "build of the tests" test_cuda; fi
  if needed test; then compile 13-build-example "build of the example" gpu_your_own_kernel; fi
  if needed tool losses; then compile 14-build-tool "build of the tool" "esft_tool test_end_to_end"; fi
fi
if wanted test; then
  step 20-test "tests with the label gpu" ctest --test-dir "$build" -L gpu -E end_to_end --no-tests=error --output-on-failure --parallel 4
fi
if wanted tool; then
  step 25-tool "the tool, end to end" ctest --test-dir "$build" -L gpu -R end_to_end --no-tests=error --output-on-failure --parallel 8
fi
if wanted figures; then
  step 30-figures figures "$build/benchmarks/esft_gpu_figures"
fi
if wanted step; then
  step 40-step "steps of a DeepSeek-V2-Lite-sized model" "$build/benchmarks/esft_gpu_step" ${selection:+"$selection"}
fi

# The bundled model, all weights, 50 steps: the loss of the GPU within 1e-4 of the CPU's. Not at the usual rate of 1e-3, at which it has been
# learnt by heart after ten steps: there two CPU backends, which only add in another order, are 2e-3 apart; at this one 1e-6.
cat > "$out/losses.sh" <<'END'
build=$1
out=$2
rm -rf "$out/run-cuda" "$out/run-eigen"
for backend in cuda eigen; do
  "$build/bin/esft" train --backend "$backend" --dtype float32 --model examples/quickstart/model --method full --steps 50 --save-every 0 \
    --lr 1e-5 --data examples/quickstart/data/package_section.train.jsonl --out "$out/run-$backend" || exit 1
done
for backend in cuda eigen; do
  grep -o '"loss":[^,}]*' "$out/run-$backend/metrics.jsonl" | tail -n 1 | cut -d: -f2
done | awk '{ loss[NR] = $1 } END {
  d = (loss[1] - loss[2]) / loss[2]
  met = NR == 2 && d * d <= 1e-8
  print "| loss after 50 steps, cuda and eigen |", loss[1], "and", loss[2], "|", d, "relative | <= 1e-4 relative |", met ? "yes |" : "**no** |"
  exit met ? 0 : 3 }'
END
if wanted losses; then
  step 50-losses "50 steps as eigen, within 1e-4" sh "$out/losses.sh" "$build" "$out"
  rm -rf "$out/run-cuda" "$out/run-eigen"
fi

# What is deliberately asked for and refused is left out. Whole steps are long under a tool that watches every access.
program=$build/tests/cuda/test_cuda
filter='cuda_behaviour.*:*heads_that_tensor_cores_take*:*grouped_products*:-*more_memory*:*failed_allocation*:*fails_anywhere*:*queued_far_ahead*'
# The activation runs over rows of slots that no expert serves as well, which nobody has written and nobody reads.
unwritten=':*routes_of_its_batch*'
number=60
for tool in memcheck racecheck initcheck; do
  number=$((number + 1))
  wanted "$tool" || continue
  if command -v compute-sanitizer > /dev/null; then
    left_out=
    [ "$tool" = initcheck ] && left_out=$unwritten
    step "$number-$tool" "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "$program" \
      "--gtest_filter=$filter$left_out"
  else
    row "compute-sanitizer $tool" "**not run**: compute-sanitizer is not in PATH" "" > "$out/rows/$number-$tool.md"
    failed=1
  fi
done

write_table
cat "$table"
exit "$failed"
