// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Random data: constant inputs draw less power and run faster than real ones.

#include <esft/backend/tensor.hpp>
#include <esft/core/rng.hpp>

namespace esft::bench {

template <std::size_t R>
host_tensor<float, R> random_tensor(extents<R> shape, std::uint64_t seed, double scale = 1) {
  const counter_rng rng(seed, rng_stream::test);
  auto t = make_host_tensor<float, R>(shape);
  for (index i = 0; i < t.size(); ++i) t.data()[i] = static_cast<float>(scale * (2 * rng.uniform(static_cast<std::uint64_t>(i)) - 1));
  return t;
}
template <class T, std::size_t R>
host_tensor<T, R> converted(const host_tensor<float, R>& from) {
  auto t = make_host_tensor<T, R>(from.shape());
  for (index i = 0; i < t.size(); ++i) t.data()[i] = T(from.data()[i]);
  return t;
}

}  // namespace esft::bench
