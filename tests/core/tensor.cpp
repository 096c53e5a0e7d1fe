// SPDX-License-Identifier: Apache-2.0
// Owner and view: layout, constness, spaces, and the limits of slice and reshape.
#include <esft/backend/tensor.hpp>

#include <cstdint>
#include <type_traits>
#include <utility>

#include <gtest/gtest.h>

namespace core_tensor_tests {

struct device_space {
  static constexpr bool host_accessible = false;
};

template <class From, class To>
constexpr bool converts = std::is_convertible_v<From, To>;

static_assert(converts<esft::host_view<float, 2>, esft::host_view<const float, 2>>);
static_assert(!converts<esft::host_view<const float, 2>, esft::host_view<float, 2>>);
static_assert(!converts<esft::host_view<float, 2>, esft::host_view<float, 1>>);
static_assert(!converts<esft::host_view<float, 2>, esft::host_view<double, 2>>);
static_assert(!converts<esft::tensor_view<float, 2, device_space>, esft::host_view<float, 2>>);
static_assert(!std::is_copy_constructible_v<esft::host_tensor<float, 2>>);

TEST(tensor, is_row_major_contiguous_and_aligned) {
  auto t = esft::make_host_tensor<float, 3>({2, 3, 4});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(t.data()) % 64, 0U);
  const auto v = t.view();
  for (esft::index i = 0; i < v.size(); ++i) v.data()[i] = static_cast<float>(i);
  EXPECT_EQ(v(1, 2, 3), 23.0F);
  EXPECT_EQ(v[1][2][3], 23.0F);
  EXPECT_EQ(v[1].extent(0), 3);
  EXPECT_EQ(v.reshape<2>({6, 4})(5, 0), 20.0F);
  EXPECT_EQ(v.flat()[7], 7.0F);
  EXPECT_EQ(v.slice(1, 2)(0, 0, 0), 12.0F);
}

TEST(tensor, slice_and_reshape_stay_inside) {
  auto t = esft::make_host_tensor<float, 2>({3, 4});
  const auto v = t.view();
  EXPECT_NO_THROW(static_cast<void>(v.slice(0, 3)));
  EXPECT_TRUE(v.slice(3, 3).empty());
  EXPECT_THROW(static_cast<void>(v.slice(0, 4)), esft::contract_violation);
  EXPECT_THROW(static_cast<void>(v.slice(-1, 2)), esft::contract_violation);
  EXPECT_THROW(static_cast<void>(v.slice(2, 1)), esft::contract_violation);
  EXPECT_NO_THROW(static_cast<void>(v.reshape<1>({12})));
  EXPECT_THROW(static_cast<void>(v.reshape<1>({11})), esft::contract_violation);
  EXPECT_THROW(static_cast<void>(v.reshape<2>({-3, -4})), esft::contract_violation);
}

TEST(tensor, empty_ones_are_legal_and_sizes_are_checked) {
  auto none = esft::make_host_tensor<float, 2>({0, 8});
  EXPECT_TRUE(none.empty());
  EXPECT_THROW((esft::make_host_tensor<float, 2>({-1, 8})), esft::contract_violation);
  EXPECT_THROW((esft::make_host_tensor<float, 2>({esft::index{1} << 40, esft::index{1} << 40})), esft::contract_violation);
  EXPECT_THROW((esft::make_host_tensor<float, 1>({esft::index{1} << 62})), esft::contract_violation) << "2^64 bytes are not 0 bytes";
}

TEST(tensor, moving_leaves_the_memory_where_it_is_and_gives_it_back_once) {
  static int given_back = 0;
  given_back = 0;
  float memory[4] = {1, 2, 3, 4};
  {
    esft::host_tensor<float, 1> first(memory, {4}, [](void*, void*) { ++given_back; });
    esft::host_tensor<float, 1> second = std::move(first);
    EXPECT_EQ(second.data(), memory);
    EXPECT_EQ(second.view()[3], 4.0F);
    EXPECT_EQ(given_back, 0);
  }
  EXPECT_EQ(given_back, 1);
}

}  // namespace core_tensor_tests
