// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Infinities and what is no number, for backends that have a device: they show where they belong, and are kept where they came from.

#include <esft/backend/tensor.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace esft::test {

inline constexpr float infinite = std::numeric_limits<float>::infinity();
inline constexpr float no_number = std::numeric_limits<float>::quiet_NaN();

/// Tensors of a backend from numbers, and back.
template <class Backend>
class numbers_of {
 public:
  using value = typename Backend::value_type;
  explicit numbers_of(Backend& backend) : backend_(backend) {}
  template <class U = value, std::size_t R, class H>
  auto filled(extents<R> shape, const std::vector<H>& values) {
    auto made = backend_.template make_tensor<U>(shape);
    backend_.copy_in(std::span<const H>(values), made.view());
    return made;
  }
  template <class U, std::size_t R, class Space>
  std::vector<float> host(const tensor<U, R, Space>& from) {
    std::vector<float> values(static_cast<std::size_t>(from.size()));
    backend_.copy_out(from.view(), std::span<float>(values));
    return values;
  }
  auto ids(const std::vector<std::int32_t>& values) {
    return filled<std::int32_t>(extents<1>{static_cast<index>(values.size())}, values);
  }

 private:
  Backend& backend_;
};

template <class Backend>
void check_special_logits() {
  Backend backend;
  numbers_of<Backend> made(backend);
  const auto loss = [&](std::vector<float> row, std::int32_t label) {
    auto logits = made.template filled<float>(extents<2>{1, static_cast<index>(row.size())}, row);
    const double value = backend.cross_entropy(logits.view(), made.ids({label}).view(), 1);
    return std::pair(value, made.host(logits));
  };
  std::vector<float> half(40, 0.0F);
  for (std::size_t i = 0; i < 20; ++i) half[2 * i] = -infinite;
  const auto [usual, slope] = loss(half, 3);
  EXPECT_NEAR(usual, std::log(20.0), 1e-6);
  EXPECT_EQ(slope[0], 0.0F);
  EXPECT_NEAR(static_cast<double>(slope[1]), 0.05, 1e-7);
  EXPECT_EQ(loss(half, 2).first, std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(loss(std::vector<float>(40, -infinite), 3).first));
  auto odd = half;
  odd[7] = no_number;
  EXPECT_TRUE(std::isnan(loss(odd, 3).first));
  auto lowest = std::vector<float>(40, std::numeric_limits<float>::lowest());
  EXPECT_EQ(loss(lowest, 3).first, 0.0) << "log 40 is nothing beside such numbers, which are numbers all the same";
}

/// Two documents of two tokens in one row: what is wrong with the second changes no bit of the first.
template <class Backend>
void check_documents_stay_apart(index width) {
  using value = typename Backend::value_type;
  Backend backend;
  numbers_of<Backend> made(backend);
  const extents<3> shape{4, 1, width};
  const auto first = static_cast<std::size_t>(2 * width);
  std::vector<float> numbers(2 * first), broken(2 * first);
  for (std::size_t i = 0; i < 2 * first; ++i) {
    numbers[i] = std::sin(static_cast<float>(i));
    broken[i] = i < first ? numbers[i] : no_number;
  }
  const auto begin = made.ids({0, 0, 2, 2});
  const auto end = made.ids({2, 2, 4, 4});
  const auto gradients = [&](const std::vector<float>& queries) {
    const auto q = made.filled(shape, queries), k = made.filled(shape, numbers), v = made.filled(shape, numbers);
    const auto d_o = made.filled(shape, queries);
    const auto result = [&] { return backend.template make_tensor<value>(shape); };
    auto o = result(), dq = result(), dk = result(), dv = result();
    auto lse = backend.template make_tensor<float>(extents<2>{4, 1});
    backend.attention(q.view(), k.view(), v.view(), begin.view(), end.view(), 0.5, o.view(), lse.view());
    backend.attention_backward(q.view(), k.view(), v.view(), std::as_const(o).view(), std::as_const(lse).view(), d_o.view(), begin.view(),
                               end.view(), 0.5, dq.view(), dk.view(), dv.view());
    return std::vector{made.host(dq), made.host(dk), made.host(dv)};
  };
  const auto wanted = gradients(numbers);
  const auto got = gradients(broken);
  for (std::size_t what = 0; what < 3; ++what) {
    for (std::size_t i = 0; i < first; ++i) EXPECT_EQ(got[what][i], wanted[what][i]) << what << " " << i << ", width " << width;
    EXPECT_TRUE(std::isnan(got[what][first + 1])) << what << ", width " << width;
  }
}

}  // namespace esft::test
