// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `product`: one matrix product as the device libraries are asked for it, in row-major terms.

#include <esft/core/dtype.hpp>
#include <esft/core/shape.hpp>

#include <cstddef>
#include <cstdint>

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

/// Whether its operands may take part in one call for many products: of 16-bit numbers cuBLAS reads as many bytes at a time as the terms
/// of a sum allow, and asks that addresses are multiples of that.
inline bool aligned_for_batches(const product& p) {
  if (p.input == dtype::float32) return true;
  const auto bytes = static_cast<std::size_t>(p.k) * size_of(p.input);
  const std::size_t unit = bytes % 16 == 0 ? 16 : bytes % 4 == 0 ? 4 : size_of(p.input);
  const auto fits = [unit](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % unit == 0; };
  return fits(p.a) && fits(p.b) && fits(p.c);
}

}  // namespace esft::detail::cuda
