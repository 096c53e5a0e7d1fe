#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds everything and runs every test that needs no accelerator and no network.
set -eu
cd "$(dirname "$0")"
. cmake/need_packages.sh
need_packages \
  g++ g++ make make cmake cmake \
  libboost1.81-dev boost/json.hpp libeigen3-dev eigen3/Eigen/Core libcli11-dev CLI/CLI.hpp libtomlplusplus-dev toml++/toml.h \
  libgtest-dev gtest/gtest.h libgmock-dev gmock/gmock.h librapidcheck-dev rapidcheck.h libbenchmark-dev benchmark/benchmark.h \
  libtrilinos-kokkos-dev trilinos/Kokkos_Core.hpp pkg-config pkg-config strace strace doxygen doxygen
need_cmake
exec cmake --workflow --preset test
