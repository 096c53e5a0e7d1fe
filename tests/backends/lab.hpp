// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Inputs as doubles, so that one op can run on any backend with the very same numbers, and its outputs as doubles again.

#include "tolerance.hpp"

#include <esft/backend/backend.hpp>
#include <esft/core/rng.hpp>

#include <limits>
#include <span>
#include <map>
#include <string>
#include <vector>

namespace esft::test {

/// Numbers of one tensor with its shape.
struct numbers {
  std::vector<index> shape;
  std::vector<double> values;
};

/// Named inputs of one op.
struct inputs {
  std::map<std::string, numbers> value;  ///< stored in the value type
  std::map<std::string, numbers> sum;    ///< stored in the accumulate type
  std::map<std::string, std::vector<std::int32_t>> ids;
};

/// One output of an op.
struct output {
  std::string name;
  precision kind;
  std::vector<double> values;
};
using outputs = std::vector<output>;

/// Random inputs, reproducible from a seed; integers where sums must be exact.
class generator {
 public:
  explicit generator(std::uint64_t seed, bool integers = false) : rng_(seed, rng_stream::test), integers_(integers) {}

  numbers operator()(std::vector<index> shape, double scale = 1) {
    index count = 1;
    for (const index extent : shape) count *= extent;
    numbers result{std::move(shape), {}};
    for (index i = 0; i < count; ++i) {
      result.values.push_back(integers_ ? static_cast<double>(rng_.below(counter_++, 9)) - 4 : scale * rng_.normal(counter_++));
    }
    return result;
  }
  std::int32_t below(index bound) { return static_cast<std::int32_t>(rng_.below(counter_++, static_cast<std::uint64_t>(bound))); }

 private:
  counter_rng rng_;
  bool integers_;
  std::uint64_t counter_ = 1;
};

/// Rounds inputs to what backend `B` can store, so that every backend starts from the same numbers.
template <class B>
inputs rounded(inputs in) {
  for (auto& [name, n] : in.value) {
    for (double& x : n.values) x = static_cast<double>(value_t<B>(static_cast<accum_t<B>>(x)));
  }
  for (auto& [name, n] : in.sum) {
    for (double& x : n.values) x = static_cast<double>(static_cast<accum_t<B>>(x));
  }
  return in;
}

/// How weights lie when an op runs: as they come, or in the backend's own tiles where these fit.
enum class arrangement { row_major, packed };

/// One backend with the inputs of one op.
template <class B>
class lab {
 public:
  lab(B& backend_object, const inputs& in, arrangement how = arrangement::row_major) : backend(backend_object), in_(in), how_(how) {}

  /// Weights and their gradients.
  template <std::size_t R>
  auto weights(const std::string& name) const {
    return arranged(value<R>(name));
  }
  template <std::size_t R>
  auto weight_sums(const std::string& name) const {
    return arranged(sum<R>(name));
  }

  template <std::size_t R>
  auto value(const std::string& name) const {
    return load<value_t<B>, R>(in_.value.at(name));
  }
  template <std::size_t R>
  auto sum(const std::string& name) const {
    return load<accum_t<B>, R>(in_.sum.at(name));
  }
  auto ids(const std::string& name) const {
    const auto& from = in_.ids.at(name);
    auto t = backend.template make_tensor<std::int32_t>(extents<1>{static_cast<index>(from.size())});
    backend.copy_in(std::span<const std::int32_t>(from), t.view());
    return t;
  }
  /// The same on the host, for ops that take a list there.
  const std::vector<std::int32_t>& host_ids(const std::string& name) const { return in_.ids.at(name); }
  /// An output that the op must overwrite: full of NaN.
  template <class T, std::size_t R>
  auto blank(extents<R> shape) const {
    auto t = backend.template make_tensor<T>(shape);
    if constexpr (std::same_as<T, std::int32_t>) {
      backend.fill(t.view(), std::numeric_limits<std::int32_t>::min());
    } else {
      backend.fill(t.view(), T(std::numeric_limits<accum_t<B>>::quiet_NaN()));
    }
    return t;
  }
  template <std::size_t R>
  auto blank_value(extents<R> shape) const {
    return blank<value_t<B>>(shape);
  }
  template <std::size_t R>
  auto blank_sum(extents<R> shape) const {
    return blank<accum_t<B>>(shape);
  }
  template <class Tensor>
  output read(std::string name, precision kind, const Tensor& t) const {
    output out{std::move(name), kind, {}};
    for (const auto x : stored(t)) out.values.push_back(static_cast<double>(x));
    return out;
  }

  template <class T, std::size_t R>
  output read(std::string name, precision kind, const matrix_tensor<T, R, typename B::memory_space>& t) const {
    output out{std::move(name), kind, {}};
    const std::vector<T> values = stored(t);
    const index rows = t.extent(R - 2);
    const index columns = t.extent(R - 1);
    for (index i = 0; i < t.size(); ++i) {
      const index part = i / (rows * columns) * (rows * columns);
      const index at = part + t.layout().offset((i - part) / columns, i % columns, columns);
      out.values.push_back(static_cast<double>(values[static_cast<std::size_t>(at)]));
    }
    return out;
  }

  B& backend;

 private:
  /// The elements in the order in which they lie, wherever the backend keeps them.
  template <class Tensor>
  auto stored(const Tensor& t) const {
    std::vector<std::remove_cvref_t<decltype(*t.data())>> values(static_cast<std::size_t>(t.size()));
    if constexpr (requires { t.elements(); }) {
      backend.copy_out(t.elements(), std::span(values));
    } else {
      backend.copy_out(t.view().flat(), std::span(values));
    }
    return values;
  }
  template <class T, std::size_t R>
  auto arranged(tensor<T, R, typename B::memory_space> t) const {
    matrix_tensor<T, R, typename B::memory_space> result(std::move(t));
    if constexpr (tiling_backend<B>) {
      const extents<2> shape{result.extent(R - 2), result.extent(R - 1)};
      if (how_ == arrangement::packed && B::tile.fits(shape[0], shape[1]) && result.size() > 0) {
        const auto parts = result.matrix().elements.reshape(extents<3>{result.size() / (shape[0] * shape[1]), shape[0], shape[1]});
        for (index part = 0; part < parts.extent(0); ++part) backend.rearrange(parts[part], matrix_layout{}, B::tile);
        result.relabel(B::tile);
      }
    }
    return result;
  }
  template <class T, std::size_t R>
  auto load(const numbers& from) const {
    extents<R> shape{};
    std::copy(from.shape.begin(), from.shape.end(), shape.begin());
    auto t = backend.template make_tensor<T>(shape);
    std::vector<T> values;
    for (const double x : from.values) values.push_back(T(static_cast<accum_t<B>>(x)));
    backend.copy_in(std::span<const T>(values), t.view());
    return t;
  }
  const inputs& in_;
  arrangement how_;
};

/// Weights as the ops of a backend take them.
template <class B, class T, std::size_t R>
matrix_t<B, T, R> operand(const lab<B>&, matrix_tensor<T, R, typename B::memory_space>& t) {
  if constexpr (tiling_backend<B>) {
    return t.matrix();
  } else {
    return t.view();
  }
}
template <class B, class T, std::size_t R>
matrix_t<B, const T, R> operand(const lab<B>&, const matrix_tensor<T, R, typename B::memory_space>& t) {
  if constexpr (tiling_backend<B>) {
    return t.matrix();
  } else {
    return t.view();
  }
}

/// A const view: what ops take as inputs.
template <class Tensor>
auto c(const Tensor& t) {
  return t.view();
}

}  // namespace esft::test
