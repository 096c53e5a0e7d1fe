// SPDX-License-Identifier: Apache-2.0
// Infinities and what is no number: the same on the paths of cores and of devices, and kept where it came from.
#include <esft/backends/kokkos.hpp>
#include <esft/core/token_batch.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace esft::test {
namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();
constexpr float no_number = std::numeric_limits<float>::quiet_NaN();
using backend_type = kokkos_backend<>;

template <std::size_t R>
auto filled(backend_type& backend, extents<R> shape, const std::vector<float>& values) {
  auto made = backend.make_tensor<float>(shape);
  backend.copy_in(std::span<const float>(values), made.view());
  return made;
}
template <std::size_t R>
std::vector<float> host(backend_type& backend, const tensor<float, R, backend_type::memory_space>& from) {
  std::vector<float> values(static_cast<std::size_t>(from.size()));
  backend.copy_out(from.view(), std::span<float>(values));
  return values;
}
auto ids(backend_type& backend, const std::vector<std::int32_t>& values) {
  auto made = backend.make_tensor<std::int32_t>(extents<1>{static_cast<index>(values.size())});
  backend.copy_in(std::span<const std::int32_t>(values), made.view());
  return made;
}

TEST(kokkos_special_numbers, of_logits_show_in_the_loss) {
  backend_type backend;
  const auto loss = [&](std::vector<float> row, std::int32_t label) {
    auto logits = filled(backend, extents<2>{1, static_cast<index>(row.size())}, row);
    const double value = backend.cross_entropy(logits.view(), ids(backend, {label}).view(), 1);
    return std::pair(value, host(backend, logits));
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

TEST(kokkos_special_numbers, of_one_document_stay_there) {
  backend_type backend;
  const extents<3> shape{4, 1, 4};
  std::vector<float> numbers(16), broken(16);
  for (std::size_t i = 0; i < 16; ++i) {
    numbers[i] = std::sin(static_cast<float>(i));
    broken[i] = i < 8 ? numbers[i] : no_number;
  }
  const auto begin = ids(backend, {0, 0, 2, 2});
  const auto end = ids(backend, {2, 2, 4, 4});
  const auto gradients = [&](const std::vector<float>& queries) {
    const auto q = filled(backend, shape, queries), k = filled(backend, shape, numbers), v = filled(backend, shape, numbers);
    const auto d_o = filled(backend, shape, queries);
    auto o = backend.make_tensor<float>(shape), dq = backend.make_tensor<float>(shape), dk = backend.make_tensor<float>(shape),
         dv = backend.make_tensor<float>(shape);
    auto lse = backend.make_tensor<float>(extents<2>{4, 1});
    backend.attention(q.view(), k.view(), v.view(), begin.view(), end.view(), 0.5, o.view(), lse.view());
    backend.attention_backward(q.view(), k.view(), v.view(), std::as_const(o).view(), std::as_const(lse).view(), d_o.view(), begin.view(),
                               end.view(), 0.5, dq.view(), dk.view(), dv.view());
    return std::vector{host(backend, dq), host(backend, dk), host(backend, dv)};
  };
  const auto wanted = gradients(numbers);
  const auto got = gradients(broken);
  for (std::size_t what = 0; what < 3; ++what) {
    for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(got[what][i], wanted[what][i]) << what << " " << i;
    EXPECT_TRUE(std::isnan(got[what][9])) << what;
  }
}

}  // namespace
}  // namespace esft::test
