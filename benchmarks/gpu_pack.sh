#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Collects what gpu.sh needs beside the CUDA toolkit, CMake and a compiler, for a GPU machine on which nothing can be installed: headers of
# Boost, Eigen, CLI11, toml++, GoogleTest, RapidCheck, and the static libraries of the last two; and the published selection of experts for
# intent where ESFT_OFFICIAL_DATA names the folder of the published results. Fails where the sources include what it did not collect.
#
#   benchmarks/gpu_pack.sh [FOLDER]      default build/gpu_pack, which gpu.sh finds; copy it beside the sources there
set -eu
cd "$(dirname "$0")/.."
folder=${1:-build/gpu_pack}
include=${ESFT_PACK_INCLUDE:-/usr/include}
library=${ESFT_PACK_LIBRARY:-/usr/lib/$(uname -m)-linux-gnu}
rm -rf "$folder"
mkdir -p "$folder/include" "$folder/lib" "$folder/share"
for name in eigen3 CLI toml++ gtest gmock rapidcheck; do
  [ -d "$include/$name" ] || { echo "gpu_pack.sh: $include/$name is missing" >&2; exit 1; }
  cp -R "$include/$name" "$folder/include/"
done
rm -rf "$folder/include/eigen3/unsupported"
cp "$include/rapidcheck.h" "$folder/include/"
for name in libgtest.a libgtest_main.a libgmock.a libgmock_main.a librapidcheck.a; do cp "$library/$name" "$folder/lib/"; done
# Of Boost only what the library reaches, and the version.
echo '#include <esft/core/reflect.hpp>' | "${CXX:-c++}" -std=c++20 -x c++ -M -Iinclude - | tr ' ' '\n' | grep "^$include/boost/" |
  while read -r header; do
    at=$folder/include/${header#"$include"/}
    mkdir -p "$(dirname "$at")"
    cp "$header" "$at"
  done
cp "$include/boost/version.hpp" "$include/boost/config.hpp" "$folder/include/boost/"  # by which CMake finds it
for name in eigen3 CLI11; do
  for at in "$library/cmake/$name" /usr/share/cmake/"$name" /usr/share/"$name"/cmake /usr/lib/cmake/"$name"; do
    [ -d "$at" ] || continue
    mkdir -p "$folder/share/$name"
    cp -R "$at" "$folder/share/$name/cmake"
    break
  done
done
# What gpu.sh compiles. Headers of the system lie elsewhere, or are files of no folder.
missing=$(find include backends/cuda backends/eigen benchmarks/gpu tools tests -name '*.?pp' ! -path 'tests/kokkos/*' ! -path 'tests/io/*' \
    -exec grep -hoE '^#include <[A-Za-z0-9_+]+/[^>]+>' {} + | sed 's/.*<\(.*\)>/\1/' | sort -u |
  while read -r header; do
    [ -e "$include/$header" ] || [ -e "$include/eigen3/$header" ] || continue
    [ -e "$folder/include/$header" ] || [ -e "$folder/include/eigen3/$header" ] || echo "$header"
  done)
if [ -n "$missing" ]; then
  echo "gpu_pack.sh: the sources include what the pack lacks:" $missing >&2
  exit 1
fi
selection=${ESFT_OFFICIAL_DATA:-}/intent/expert_cfg.json
if [ -r "$selection" ]; then
  mkdir -p "$folder/share/esft-official/intent"
  cp "$selection" "$folder/share/esft-official/intent/"
fi
du -sh "$folder"
