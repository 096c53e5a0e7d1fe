// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Numbers in tests: tensors made from a counter, copies to the host, comparison relative to scale, central differences.

#include <esft/backend/backend.hpp>
#include <esft/core/rng.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace esft_test {

/// Normal numbers that depend on nothing but the seed.
inline std::vector<double> normal_numbers(std::size_t count, std::uint64_t seed, double deviation = 1) {
  const esft::counter_rng rng(seed, esft::rng_stream::test);
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = deviation * rng.normal(i);
  return values;
}

/// A tensor of a backend with given elements.
template <class T, class Backend, class H, std::size_t Rank>
auto make(Backend& backend, const esft::extents<Rank>& shape, const std::vector<H>& values) {
  auto result = backend.template make_tensor<T>(shape);
  backend.copy_in(std::span<const H>(values), result.view());
  return result;
}

/// Integers in a backend's memory.
template <class Backend, std::size_t Rank>
auto make_ids(Backend& backend, const esft::extents<Rank>& shape, const std::vector<std::int32_t>& values) {
  return make<std::int32_t>(backend, shape, values);
}

/// A tensor of normal numbers.
template <class T, class Backend, std::size_t Rank>
auto random_tensor(Backend& backend, const esft::extents<Rank>& shape, std::uint64_t seed, double deviation = 1) {
  return make<T>(backend, shape, normal_numbers(static_cast<std::size_t>(esft::element_count(shape)), seed, deviation));
}

/// The elements of a tensor on the host, exactly (float and double) or widened (bf16).
template <class H = double, class Backend, class Tensor>
std::vector<H> to_host(Backend& backend, const Tensor& tensor) {
  std::vector<H> values(static_cast<std::size_t>(tensor.size()));
  if constexpr (requires { tensor.matrix(); }) {
    esft::copy_out(backend, tensor.matrix(), std::span<H>(values));
  } else {
    backend.copy_out(std::as_const(tensor).view(), std::span<H>(values));
  }
  return values;
}

/// Largest magnitude, at least `least`: the scale to which an error is compared.
inline double scale_of(const std::vector<double>& values, double least = 1e-3) {
  double scale = least;
  for (const double value : values) scale = std::max(scale, std::abs(value));
  return scale;
}

/// Fails where an element is further from `want` than `tolerance` times the largest magnitude of `want`; names the worst element.
inline void expect_close(const std::vector<double>& got, const std::vector<double>& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const double scale = scale_of(want);
  std::size_t worst = 0;
  double error = -1;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double here = std::isfinite(got[i]) ? std::abs(got[i] - want[i]) / scale : INFINITY;
    if (here > error) {
      error = here;
      worst = i;
    }
  }
  if (got.empty()) return;
  EXPECT_LE(error, tolerance) << what << ": element " << worst << " of " << got.size() << " is " << got[worst] << ", expected "
                              << want[worst] << " (scale " << scale << ")";
}

/// Step of the central differences.
inline constexpr double difference_step = 1e-5;
/// The bound on |difference - gradient| / max(1e-3, share x largest |gradient|, |gradient|).
struct difference_rule {
  double bound = 1e-6;
  double share = 0;
  std::size_t fewer = 1;  ///< of so many elements of a large parameter one is looked at
};
/// By what a backend computes in: differences are taken in double, of the same function, and few where double has been looked at already;
/// float loses digits where terms cancel.
template <class Backend>
inline constexpr difference_rule rule_of = std::same_as<esft::accum_t<Backend>, double> ? difference_rule{} : difference_rule{1e-4, 0.1, 8};

/// Compares `gradient` with central differences of `loss()` over the elements of `parameter`; of a large one, `limit` spread elements.
template <class Loss>
void expect_central_differences(std::span<double> parameter, const std::vector<double>& gradient, Loss&& loss, const std::string& what,
                                std::size_t limit = 4096, difference_rule rule = {}) {
  ASSERT_EQ(parameter.size(), gradient.size()) << what;
  const double least = std::max(1e-3, rule.share * scale_of(gradient));
  const std::size_t stride = std::max<std::size_t>(1, parameter.size() / std::max<std::size_t>(2, limit / rule.fewer));
  double worst = 0;
  std::string where;
  for (std::size_t i = 0; i < parameter.size(); i += stride) {
    const double kept = parameter[i];
    parameter[i] = kept + difference_step;
    const double above = loss();
    parameter[i] = kept - difference_step;
    const double below = loss();
    parameter[i] = kept;
    const double numeric = (above - below) / (2 * difference_step);
    const double difference = std::abs(numeric - gradient[i]) / std::max(least, std::abs(gradient[i]));
    const double error = std::isfinite(difference) ? difference : INFINITY;
    if (error > worst) {
      worst = error;
      where = "element " + std::to_string(i) + ": gradient " + std::to_string(gradient[i]) + ", difference " + std::to_string(numeric);
    }
  }
  EXPECT_LE(worst, rule.bound) << what << ": " << where;
}

}  // namespace esft_test
