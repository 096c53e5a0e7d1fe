// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Launches of grouped products whose sizes stay on the device: nothing waits, and a graph may capture them.

#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/kernels/grouped.hpp>

#include <algorithm>
#include <span>

namespace esft::detail::cuda {

constexpr index tiles_across(index extent, index side) { return (extent + side - 1) / side; }

/// Whether tensor cores take operands whose rows have these many elements: they read 16 bytes at a time.
template <class T, class... Pointers>
bool in_chunks(index one, index other, const Pointers*... data) {
  return std::same_as<T, bf16> && one % chunk_elements == 0 && other % chunk_elements == 0 &&
         ((reinterpret_cast<std::uintptr_t>(data) % 16 == 0) && ...);
}

/// y = x w_e^T where `WeightTransposed`, w [E, n, k]; else y = x w_e, w [E, k, n]. Rows of no expert are left as they are.
template <bool WeightTransposed, class T>
void device_rows(context& shared, row_products<T> p) {
  const bool tensor = in_chunks<T>(p.n, p.k, p.x, p.w, p.y);
  const int side = tensor ? product_side : plain_side;
  const scratch<std::int32_t> first_tile(shared, p.experts + 1);
  p.first_tile = first_tile.get();
  shared.launch(grid(1, scan_threads), count_tiles_kernel<std::int32_t>, p.offsets, p.experts, side, first_tile.get());
  const index blocks = most_tiles(p.rows, p.experts, side) * tiles_across(p.n, side);
  if constexpr (std::same_as<T, bf16>) {
    if (tensor) {
      shared.launch(grid(blocks, product_threads, product_bytes), tensor_rows_kernel<WeightTransposed>, p);
      ++shared.tensor_core_ops;
      return;
    }
  }
  shared.launch(grid(blocks, plain_threads), plain_rows_kernel<WeightTransposed, T>, p);
}

/// dw [S, m, n] += dy_e^T x_e
template <class T>
void device_weights(context& shared, weight_products<T> p, std::span<const std::int32_t> selected) {
  const bool tensor = in_chunks<T>(p.m, p.n, p.dy, p.x);
  const int side = tensor ? product_side : plain_side;
  const index tiles = tiles_across(p.m, side) * tiles_across(p.n, side);
  while (!selected.empty()) {
    const auto part = selected.first(std::min(selected.size(), static_cast<std::size_t>(selected_experts::most)));
    p.selected = {};
    std::copy(part.begin(), part.end(), p.selected.id);
    const index blocks = static_cast<index>(part.size()) * tiles;
    if (tensor) {
      if constexpr (std::same_as<T, bf16>) {
        shared.launch(grid(blocks, product_threads, product_bytes), tensor_weights_kernel<T>, p);
        ++shared.tensor_core_ops;
      }
    } else {
      shared.launch(grid(blocks, plain_threads), plain_weights_kernel<T>, p);
    }
    p.dw += static_cast<index>(part.size()) * p.m * p.n;
    selected = selected.subspan(part.size());
  }
}

}  // namespace esft::detail::cuda
