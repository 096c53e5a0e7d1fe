// SPDX-License-Identifier: Apache-2.0
// All trained pieces at once are updated to the bits of one after another, whatever the number of threads.
#include <esft/backends/eigen.hpp>
#include <esft/core/rng.hpp>

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

namespace esft::test {
namespace update_list_tests {

/// Pieces of these sizes: several parts (enough for threads to share), one, none, fewer elements than a vector, a part and a few.
const std::vector<index> sizes{400000, 32768, 0, 5, 32771, 40};

/// Weights, their gradients and their state.
template <class T>
struct pieces {
  std::vector<host_tensor<T, 1>> weight;
  std::vector<host_tensor<float, 1>> gradient;
  host_tensor<float, 1> master, m, v;
  std::vector<update_slice<eigen_backend<T>>> slices;

  pieces() {
    const counter_rng rng(21, rng_stream::test);
    std::uint64_t at = 0;
    const auto fill = [&](auto& values) {
      for (index i = 0; i < values.size(); ++i) {
        using element = std::remove_cvref_t<decltype(values.data()[0])>;
        values.data()[i] = element(static_cast<float>(rng.normal(at++)));
      }
    };
    index total = 0;
    for (const index size : sizes) {
      weight.push_back(make_host_tensor<T, 1>({size}));
      gradient.push_back(make_host_tensor<float, 1>({size}));
      fill(weight.back());
      fill(gradient.back());
      total += size;
    }
    for (auto* state : {&master, &m, &v}) {
      *state = make_host_tensor<float, 1>({total});
      fill(*state);
    }
    for (index i = 0; i < total; ++i) v.data()[i] *= v.data()[i];
    for (std::size_t i = 0; i < sizes.size(); ++i) slices.push_back({weight[i].view(), gradient[i].view(), i % 2 == 0});
  }
};

template <class A, class B>
bool same_bytes(const A& a, const B& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(*a.data())) == 0;
}

template <class T>
class update_list : public testing::Test {};
using types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(update_list, types);

TYPED_TEST(update_list, equals_one_piece_after_another) {
  using backend_type = eigen_backend<TypeParam>;
  const adamw_step step{.learning_rate = 0.01, .weight_decay = 0.1, .step = 3, .gradient_scale = 0.5};
  pieces<TypeParam> expected;
  backend_type one(1);
  double squares = 0;
  index first = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    adamw_step own = step;
    if (!expected.slices[i].decays) own.weight_decay = 0;
    squares += one.sum_of_squares(expected.gradient[i].view());
    const auto state = [&](host_tensor<float, 1>& all) { return host_view<float, 1>(all.data() + first, extents<1>{sizes[i]}); };
    one.adamw(expected.weight[i].view(), state(expected.master), state(expected.m), state(expected.v), expected.gradient[i].view(), own);
    first += sizes[i];
  }
  double same = 0;
  for (const int threads : {1, 2, 4}) {
    SCOPED_TRACE(threads);
    backend_type backend(threads);
    pieces<TypeParam> p;
    const auto list = backend.make_update_list(p.slices);
    const double sum = backend.sum_of_squares(list);
    EXPECT_NEAR(sum, squares, 1e-12 * squares);
    if (threads == 1) same = sum;
    EXPECT_EQ(sum, same);
    backend.adamw(list, p.master.view(), p.m.view(), p.v.view(), step);
    for (std::size_t i = 0; i < sizes.size(); ++i) EXPECT_TRUE(same_bytes(p.weight[i], expected.weight[i])) << "piece " << i;
    EXPECT_TRUE(same_bytes(p.master, expected.master));
    EXPECT_TRUE(same_bytes(p.m, expected.m));
    EXPECT_TRUE(same_bytes(p.v, expected.v));
    backend.clear_gradients(list);
    for (const auto& gradient : p.gradient) {
      for (index i = 0; i < gradient.size(); ++i) ASSERT_EQ(gradient.data()[i], 0.0F);
    }
    EXPECT_EQ(backend.sum_of_squares(list), 0);
    EXPECT_THROW(backend.adamw(list, p.master.view(), p.m.view(), p.gradient[0].view(), step), contract_violation);
  }
}

TYPED_TEST(update_list, sums_squares_of_any_number_of_elements_in_double) {
  eigen_backend<TypeParam> backend(1);
  for (const index count : {0, 1, 7, 8, 17, 1000}) {
    auto gradient = make_host_tensor<float, 1>({count});
    double sum = 0;
    for (index i = 0; i < count; ++i) {
      gradient.data()[i] = 1.0F / static_cast<float>(i + 3);
      sum += static_cast<double>(gradient.data()[i]) * static_cast<double>(gradient.data()[i]);
    }
    EXPECT_NEAR(backend.sum_of_squares(gradient.view()), sum, 1e-14 * sum) << count;
  }
}

}  // namespace update_list_tests
}  // namespace esft::test
