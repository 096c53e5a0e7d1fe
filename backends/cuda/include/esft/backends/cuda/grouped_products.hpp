// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `grouped_multiply`: the products of all experts, and the one place where it is chosen what computes them.

#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/device_products.hpp>
#include <esft/backends/cuda/product.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace esft::detail::cuda {

/// Of rows that lie expert after expert. @shape x, dx [R, K], y, dy [R, N], w [E, N, K], dw [S, N, K]
enum class grouped_kind : std::uint8_t {
  forward,         ///< y = x w_e^T
  input_gradient,  ///< dx = dy w_e
  weight_gradient  ///< dw_s += dy_e^T x_e, for the selected experts
};

template <class T>
struct grouped_call {
  grouped_kind kind;
  const T* left;   ///< x; dy for gradients
  const T* right;  ///< w; x for the gradient of weights
  void* result;    ///< of T; of float for the gradient of weights
  index rows, n, k;
  tensor_view<const std::int32_t, 1, cuda_space> offsets;  ///< [E + 1]
  std::span<const std::int32_t> selected;                  ///< experts, for the gradient of weights
  [[nodiscard]] index experts() const { return offsets.size() - 1; }
};

/// One product on a lane; what has no terms is zero.
inline void multiply(context& shared, const product& p, int lane = 0) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (!p.accumulate) shared.device.zero(p.c, static_cast<std::size_t>(p.m * p.n) * size_of(p.output));  // on the main stream
    return;
  }
  shared.fail_if_due(cuda_operation::launch, "matrix product");
  shared.device.multiply(p, lane);
}

/// One call for all products. Those without terms are none of cuBLAS's business.
inline void multiply_together(context& shared, const std::vector<product>& products) {
  std::vector<product> real;
  for (const product& p : products) {
    if (p.m > 0 && p.n > 0 && p.k > 0) {
      real.push_back(p);
    } else {
      multiply(shared, p);
    }
  }
  if (real.empty()) return;
  const std::size_t count = real.size();
  std::vector<void*> host(3 * count);
  for (std::size_t i = 0; i < count; ++i) {
    host[i] = const_cast<void*>(real[i].b);
    host[count + i] = const_cast<void*>(real[i].a);
    host[2 * count + i] = real[i].c;
  }
  const scratch<void*> addresses(shared, static_cast<index>(host.size()));
  shared.upload(addresses.get(), host.data(), host.size() * sizeof(void*));
  shared.fail_if_due(cuda_operation::launch, "grouped matrix product");
  shared.device.multiply_together(real, addresses.get());
}

/// One call a product, dealt out to the lanes.
inline void multiply_side_by_side(context& shared, const std::vector<product>& products) {
  shared.device.fork();
  try {
    int lane = 0;
    for (const product& p : products) {
      multiply(shared, p, lane);
      if (p.m > 0 && p.n > 0 && p.k > 0) lane = (lane + 1) % gpu::lanes;
    }
  } catch (...) {
    shared.device.join();  // what runs still reads memory that unwinding gives back
    throw;
  }
  shared.device.join();
}

/// One product an expert, their sizes on the host: what cuBLAS wants.
template <class T>
[[nodiscard]] std::vector<product> products_by_expert(context& shared, const grouped_call<T>& c) {
  const auto& at = shared.host_offsets(c.offsets);
  ESFT_EXPECTS(at.back() <= c.rows, "offsets [E+1] end within the rows");
  const auto first = [&](index e) -> index { return at[static_cast<std::size_t>(e)]; };
  const auto rows = [&](index e) { return first(e + 1) - first(e); };
  std::vector<product> products;
  if (c.kind == grouped_kind::weight_gradient) {
    auto* dw = static_cast<float*>(c.result);
    for (const std::int32_t e : c.selected) {
      products.push_back({c.n, c.k, rows(e), c.left + first(e) * c.n, true, c.right + first(e) * c.k, false, dw, dtype_v<T>, dtype::float32,
                          true});
      dw += c.n * c.k;
    }
    return products;
  }
  const bool forward = c.kind == grouped_kind::forward;
  const index terms = forward ? c.k : c.n;
  const index columns = forward ? c.n : c.k;
  for (index e = 0; e < c.experts(); ++e) {
    products.push_back({rows(e), columns, terms, c.left + first(e) * terms, false, c.right + e * c.n * c.k, forward,
                        static_cast<T*>(c.result) + first(e) * columns, dtype_v<T>, dtype_v<T>, false});
  }
  return products;
}

/// Kernels of our own, which read the sizes on the device.
template <class T>
void multiply_on_device(context& shared, const grouped_call<T>& c) {
  const auto experts = static_cast<std::int32_t>(c.experts());
  switch (c.kind) {
    case grouped_kind::forward:
      return device_rows<true, T>(
          shared, {c.left, c.right, static_cast<T*>(c.result), c.offsets.data(), nullptr, experts, c.rows, c.n, c.k});
    case grouped_kind::input_gradient:
      return device_rows<false, T>(
          shared, {c.left, c.right, static_cast<T*>(c.result), c.offsets.data(), nullptr, experts, c.rows, c.k, c.n});
    case grouped_kind::weight_gradient:
      return device_weights<T>(shared, {c.left, c.right, static_cast<float*>(c.result), c.offsets.data(), c.rows, c.n, c.k, {}},
                               c.selected);
  }
}

/// Another way of computing them begins here: with a value of `cuda_grouped` and a case.
template <class T>
void grouped_multiply(context& shared, const grouped_call<T>& c) {
  if (shared.options.grouped == cuda_grouped::device) return multiply_on_device(shared, c);
  const std::vector<product> products = products_by_expert(shared, c);
  if (products.empty()) return;
  const bool one_type = std::same_as<T, float> || c.kind != grouped_kind::weight_gradient;  // cuBLAS lacks sums in float of bf16
  if (shared.options.grouped == cuda_grouped::batched && one_type && std::all_of(products.begin(), products.end(), aligned_for_batches)) {
    return multiply_together(shared, products);
  }
  multiply_side_by_side(shared, products);
}

}  // namespace esft::detail::cuda
