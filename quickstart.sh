#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the tool and runs the whole pipeline on the bundled model and task; writes out/quickstart/report.html.
set -eu
cd "$(dirname "$0")"
. cmake/need_packages.sh
need_packages \
  g++ g++ make make cmake cmake \
  libboost1.81-dev boost/json.hpp libeigen3-dev eigen3/Eigen/Core libcli11-dev CLI/CLI.hpp libtomlplusplus-dev toml++/toml.h
need_cmake
exec cmake --workflow --preset quickstart
