// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `product`: one matrix product as the device libraries are asked for it, in row-major terms.

#include <esft/core/dtype.hpp>
#include <esft/core/shape.hpp>

namespace esft::detail::cuda {

/// c [m, n] (+)= a [m, k] b [k, n], sums in float. A transposed operand is stored as [k, m] or [n, k]. Rows are contiguous.
struct product {
  index m = 0;
  index n = 0;
  index k = 0;
  const void* a = nullptr;
  bool a_transposed = false;
  const void* b = nullptr;
  bool b_transposed = false;
  void* c = nullptr;
  dtype input = dtype::float32;   ///< of a and b
  dtype output = dtype::float32;  ///< of c
  bool accumulate = false;
};

}  // namespace esft::detail::cuda
