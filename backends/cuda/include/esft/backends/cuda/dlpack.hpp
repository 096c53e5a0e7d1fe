// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// DLPack for tensors on a GPU: give the device's number beside them, and wait (`synchronise`) before another framework reads.

#include <esft/backend/dlpack.hpp>
#include <esft/backends/cuda.hpp>

namespace esft {

template <>
struct dlpack_device<cuda_space> {
  static constexpr int type = 2;  ///< kDLCUDA
};

}  // namespace esft
