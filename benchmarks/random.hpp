// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Random data: constant inputs draw less power and run faster than real ones.

#include <esft/backend/tensor.hpp>
#include <esft/backends/eigen/large_pages.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/rng.hpp>

#include <algorithm>
#include <vector>

namespace esft::bench {

/// Fills memory with normally distributed values of the given deviation. They come round again after a million: gigabytes of fresh ones
/// would take longer than what is to be measured.
template <class T>
void fill_random(T* to, index count, std::uint64_t seed, double deviation = 1) {
  static const std::vector<float> normals = [] {
    const counter_rng rng(1, rng_stream::test);
    std::vector<float> values(1048573);  // a prime: no matrix repeats row by row
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(rng.normal(i));
    return values;
  }();
  const auto factor = static_cast<float>(deviation);
  const auto period = static_cast<index>(normals.size());
  index at = static_cast<index>(seed * 7919) % period;
  for (index done = 0; done < count;) {
    const index run = std::min(period - at, count - done);
    const float* const from = normals.data() + at;
    for (index i = 0; i < run; ++i) to[done + i] = T(factor * from[i]);
    done += run;
    at = 0;
  }
}

/// In pages as large as those of the backend's own tensors, so that nobody is measured on smaller ones.
template <class T = float, std::size_t R>
[[nodiscard]] host_tensor<T, R> random_tensor(extents<R> shape, std::uint64_t seed, double deviation = 1) {
  auto made = make_host_tensor<T, R>(shape);
  detail::eigen::ask_for_large_pages(made.data(), static_cast<std::size_t>(made.size()) * sizeof(T));
  fill_random(made.data(), made.size(), seed, deviation);
  return made;
}

template <class T, std::size_t R>
[[nodiscard]] host_tensor<T, R> converted(const host_tensor<float, R>& from) {
  auto made = make_host_tensor<T, R>(from.shape());
  for (index i = 0; i < made.size(); ++i) made.data()[i] = T(from.data()[i]);
  return made;
}

}  // namespace esft::bench
