// SPDX-License-Identifier: Apache-2.0
// The products of bf16 matrices in tiles, on the tile registers, on dot products of pairs and as panels of floats, against plain loops in
// double.
#include <esft/backends/eigen/bf16_matmul.hpp>
#include <esft/backends/eigen/panel_matmul.hpp>
#include <esft/core/rng.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#if ESFT_EIGEN_X86
namespace esft::test {
namespace bf16_matmul_tests {

using namespace detail::eigen;

constexpr matrix_layout tiled = kernel_layout<bf16>;
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// The four functions on an engine for tiles.
template <class Engine, isa Needed>
struct on_engine {
  static constexpr isa needed = Needed;
  template <class... A>
  static void forward(A&&... a) {
    bf16_forward<Engine>(std::forward<A>(a)...);
  }
  template <class... A>
  static void swiglu_forward(A&&... a) {
    bf16_swiglu_forward<Engine>(std::forward<A>(a)...);
  }
  template <class... A>
  static void input_gradient(A&&... a) {
    bf16_input_gradient<Engine>(std::forward<A>(a)...);
  }
  template <class... A>
  static void weight_gradient(A&&... a) {
    bf16_weight_gradient<Engine>(std::forward<A>(a)...);
  }
};
using tile_registers = on_engine<amx_tiles, isa::amx>;
using dot_products = on_engine<dot_tiles, isa::avx512_bf16>;
/// The same by the float kernel, on panels.
template <isa Needed>
struct widened {
  static constexpr isa needed = Needed;
  template <class... A>
  static void forward(A&&... a) {
    panel_forward(std::forward<A>(a)...);
  }
  template <class... A>
  static void swiglu_forward(A&&... a) {
    panel_swiglu_forward(std::forward<A>(a)...);
  }
  template <class... A>
  static void input_gradient(A&&... a) {
    panel_input_gradient(std::forward<A>(a)...);
  }
  template <class... A>
  static void weight_gradient(A&&... a) {
    panel_weight_gradient(std::forward<A>(a)...);
  }
};

template <class T>
host_tensor<T, 1> filled(index count, float value) {
  auto result = make_host_tensor<T, 1>({count});
  for (index i = 0; i < count; ++i) result.data()[i] = T(value);
  return result;
}

/// Operands of one op: groups of rows, the rows gathered from fewer tokens than rows.
template <class Y>
struct operands {
  index height, width, row_count = 0, matrices;
  static constexpr index tokens = 37;
  static constexpr index active = 3;
  std::vector<row_group> groups;
  host_tensor<bf16, 1> x, w;
  host_tensor<Y, 1> dy;
  std::vector<std::int32_t> slot;

  operands(index n, index k, const std::vector<index>& counts, bool integers)
      : height(n), width(k), matrices(static_cast<index>(counts.size()) + 1), rng_(7, rng_stream::test), integers_(integers) {
    for (const index count : counts) {  // matrix 0 meets no row; groups come in reverse order of matrices
      groups.push_back({row_count, row_count + count, matrices - 1 - static_cast<index>(groups.size())});
      row_count += count;
    }
    x = random<bf16>(tokens * k);
    w = random<bf16>(matrices * n * k);
    dy = random<Y>(tokens * n);
    for (index r = 0; r < row_count; ++r) slot.push_back(static_cast<std::int32_t>(rng_.below(counter_++, tokens * active)));
  }
  [[nodiscard]] row_source<bf16> x_rows() const { return gathered(x.data(), width); }
  [[nodiscard]] row_source<Y> dy_rows() const { return gathered(dy.data(), height); }
  [[nodiscard]] double weight(index matrix, index n, index k) const {
    return static_cast<double>(static_cast<float>(w.data()[matrix * height * width + tiled.offset(n, k, width)]));
  }

 private:
  counter_rng rng_;
  bool integers_;
  std::uint64_t counter_ = 1;

  template <class T>
  host_tensor<T, 1> random(index count) {
    auto result = make_host_tensor<T, 1>({count});
    for (index i = 0; i < count; ++i) {
      const double value = integers_ ? static_cast<double>(rng_.below(counter_++, 5)) - 2 : rng_.normal(counter_++);
      result.data()[i] = T(static_cast<float>(value));
    }
    return result;
  }
  template <class T>
  row_source<T> gathered(const T* data, index columns) const {
    row_source<T> rows(data, columns);
    rows.slot = slot.data();
    rows.active = active;
    return rows;
  }
};

/// |actual - expected| within `relative` of the terms' magnitudes, plus one rounding of the result; exactly equal for integers.
void expect_near(double actual, double expected, double terms, double relative, double rounding, bool exactly, const std::string& what) {
  if (exactly) {
    ASSERT_EQ(actual, expected) << what;
  } else {
    ASSERT_NEAR(actual, expected, relative * terms + rounding * std::abs(expected) + 1e-30) << what;
  }
}

constexpr double half_rounding = 1.0 / 256;  // of a result in bf16
template <class Y>
constexpr double sum_error = std::is_same_v<Y, float> ? 3e-5 : 1e-5;  // of sums in float; of 16 bits of dy's mantissa where it is a float
const std::vector<index> row_counts = {0, 1, 7, 16, 17, 33, 0, 70};
constexpr std::pair<index, index> shapes[] = {{32, 32}, {64, 96}, {96, 544}, {576, 32}};

template <class Engine, class Y>
void check_products(bool integers) {
  machine m(2, Engine::needed);
  for (const auto& [n, k] : shapes) {
    const operands<Y> o(n, k, row_counts, integers);
    const auto x = o.x_rows();
    const auto dy = o.dy_rows();
    for (const bool accumulate : {false, true}) {
      auto y = filled<Y>(o.row_count * n, accumulate ? 3.0F : not_a_number);
      auto dx = filled<bf16>(o.row_count * k, accumulate ? 3.0F : not_a_number);
      Engine::forward(m, x, o.w.data(), y.data(), o.groups, n, k, accumulate);
      Engine::input_gradient(m, dy, o.w.data(), dx.data(), o.groups, k, n, accumulate);
      for (const row_group& g : o.groups) {
        for (index r = g.begin; r < g.end; ++r) {
          for (index i = 0; i < n; ++i) {
            double sum = accumulate ? 3 : 0;
            double terms = sum;
            for (index j = 0; j < k; ++j) {
              const double term = static_cast<double>(static_cast<float>(x[r][j])) * o.weight(g.matrix, i, j);
              sum += term;
              terms += std::abs(term);
            }
            const bool exact = integers && std::abs(sum) <= 256;
            const double rounding = sizeof(Y) == 2 ? half_rounding : 0;
            expect_near(static_cast<double>(static_cast<float>(y.data()[r * n + i])), sum, terms, 1e-5, rounding, exact, "y");
          }
          for (index j = 0; j < k; ++j) {
            double sum = accumulate ? 3 : 0;
            double terms = sum;
            for (index i = 0; i < n; ++i) {
              const double term = static_cast<double>(static_cast<float>(dy[r][i])) * o.weight(g.matrix, i, j);
              sum += term;
              terms += std::abs(term);
            }
            const bool exact = integers && std::abs(sum) <= 256;
            expect_near(static_cast<double>(static_cast<float>(dx.data()[r * k + j])), sum, terms, sum_error<Y>, half_rounding, exact,
                        "dx");
          }
        }
      }
    }
    auto dw = filled<float>(o.matrices * n * k, 0.5F);
    Engine::weight_gradient(m, dy, x, dw.data(), o.groups, n, k);
    std::vector<row_group> of_matrix(static_cast<std::size_t>(o.matrices));
    for (const row_group& g : o.groups) of_matrix[static_cast<std::size_t>(g.matrix)] = g;
    for (index e = 0; e < o.matrices; ++e) {
      const row_group g = of_matrix[static_cast<std::size_t>(e)];
      for (index i = 0; i < n; ++i) {
        for (index j = 0; j < k; ++j) {
          double sum = 0.5;
          double terms = sum;
          for (index r = g.begin; r < g.end; ++r) {
            const double term = static_cast<double>(static_cast<float>(dy[r][i])) * static_cast<double>(static_cast<float>(x[r][j]));
            sum += term;
            terms += std::abs(term);
          }
          const auto actual = static_cast<double>(dw.data()[e * n * k + tiled.offset(i, j, k)]);
          expect_near(actual, sum, terms, sum_error<Y>, 0, integers || g.rows() == 0, "dw");
        }
      }
    }
  }
}

template <class Engine>
class bf16_matmul : public testing::Test {
 protected:
  void SetUp() override {
    if (best_isa() < Engine::needed) GTEST_SKIP() << "this CPU lacks " << name_of(Engine::needed);
  }
};
using engines = testing::Types<tile_registers, dot_products, widened<isa::generic>, widened<isa::avx2>, widened<isa::avx512>>;
TYPED_TEST_SUITE(bf16_matmul, engines);

TYPED_TEST(bf16_matmul, agrees_with_double) { check_products<TypeParam, bf16>(false); }
TYPED_TEST(bf16_matmul, agrees_with_double_for_float_results_and_gradients) { check_products<TypeParam, float>(false); }
TYPED_TEST(bf16_matmul, is_exact_on_small_integers) {
  check_products<TypeParam, bf16>(true);
  check_products<TypeParam, float>(true);
}

/// Everything that one machine computes from the same operands.
template <class Engine>
std::vector<float> all_results(int threads, const operands<bf16>& o) {
  machine m(threads, Engine::needed);
  const index n = o.height;
  const index k = o.width;
  auto y = filled<bf16>(o.row_count * n, not_a_number);
  auto h = filled<bf16>(o.row_count * n / 2, not_a_number);
  auto gate_up = filled<bf16>(o.row_count * n, not_a_number);
  auto dx = filled<bf16>(o.row_count * k, not_a_number);
  auto dw = filled<float>(o.matrices * n * k, 0.25F);
  Engine::forward(m, o.x_rows(), o.w.data(), y.data(), o.groups, n, k, false);
  Engine::swiglu_forward(m, o.x_rows(), o.w.data(), gate_up.data(), h.data(), o.groups, n / 2, k);
  Engine::input_gradient(m, o.dy_rows(), o.w.data(), dx.data(), o.groups, k, n, false);
  Engine::weight_gradient(m, o.dy_rows(), o.x_rows(), dw.data(), o.groups, n, k);
  std::vector<float> all;
  for (const auto* t : {&y, &h, &gate_up, &dx}) {
    for (index i = 0; i < t->size(); ++i) all.push_back(static_cast<float>(t->data()[i]));
  }
  all.insert(all.end(), dw.data(), dw.data() + dw.size());
  return all;
}

template <class Engine>
void expect_the_same_bits(const operands<bf16>& o) {
  const std::vector<float> one = all_results<Engine>(1, o);
  for (const float value : one) ASSERT_TRUE(std::isfinite(value));
  for (const int threads : {2, 4}) {
    const std::vector<float> many = all_results<Engine>(threads, o);
    ASSERT_EQ(many.size(), one.size());
    EXPECT_EQ(std::memcmp(many.data(), one.data(), one.size() * sizeof(float)), 0) << threads << " threads";
  }
}

TYPED_TEST(bf16_matmul, computes_the_same_bits_with_any_number_of_threads) {
  expect_the_same_bits<TypeParam>(operands<bf16>(320, 416, {3, 600, 0, 41, 64}, false));  // one hot group, cut into several tasks
  expect_the_same_bits<TypeParam>(operands<bf16>(256, 256, {600, 1, 200}, false));        // a small weight, whose rows threads share
}

TYPED_TEST(bf16_matmul, fuses_swiglu_to_the_bits_of_the_two_ops) {
  machine m(2, TypeParam::needed);
  const operands<bf16> o(192, 96, row_counts, false);
  auto gate_up = filled<bf16>(o.row_count * 192, not_a_number);
  auto fused_gate_up = filled<bf16>(o.row_count * 192, not_a_number);
  auto h = filled<bf16>(o.row_count * 96, not_a_number);
  auto fused_h = filled<bf16>(o.row_count * 96, not_a_number);
  TypeParam::forward(m, o.x_rows(), o.w.data(), gate_up.data(), o.groups, 192, 96, false);
  call<swiglu_rows>(m.set, static_cast<const bf16*>(gate_up.data()), o.row_count, index{96}, h.data());
  TypeParam::swiglu_forward(m, o.x_rows(), o.w.data(), fused_gate_up.data(), fused_h.data(), o.groups, 96, 96);
  EXPECT_EQ(std::memcmp(gate_up.data(), fused_gate_up.data(), static_cast<std::size_t>(gate_up.size()) * 2), 0);
  EXPECT_EQ(std::memcmp(h.data(), fused_h.data(), static_cast<std::size_t>(h.size()) * 2), 0);
}

TYPED_TEST(bf16_matmul, writes_results_larger_than_the_caches) {
  machine m(2, TypeParam::needed);
  constexpr index wide = 2048;
  constexpr index rows = 1000;
  static_assert(rows * wide * 2 > streamed_bytes);
  const operands<bf16> o(wide, 32, {rows}, true);  // the weight [2048, 32] of the forward pass; dx takes the same bytes as [32, 2048]
  auto y = filled<bf16>(rows * wide, not_a_number);
  auto dx = filled<bf16>(rows * wide, not_a_number);
  TypeParam::forward(m, o.x_rows(), o.w.data(), y.data(), o.groups, wide, 32, false);
  TypeParam::input_gradient(m, o.x_rows(), o.w.data(), dx.data(), o.groups, wide, 32, false);
  const bf16* const matrix = o.w.data() + o.groups[0].matrix * wide * 32;
  for (index r = 0; r < rows; ++r) {
    for (index i = 0; i < wide; i += 1 + r % 7) {
      double y_sum = 0;
      double dx_sum = 0;
      for (index j = 0; j < 32; ++j) {
        const auto x = static_cast<double>(static_cast<float>(o.x_rows()[r][j]));
        y_sum += x * static_cast<double>(static_cast<float>(matrix[tiled.offset(i, j, 32)]));
        dx_sum += x * static_cast<double>(static_cast<float>(matrix[tiled.offset(j, i, wide)]));
      }
      ASSERT_EQ(static_cast<double>(static_cast<float>(y.data()[r * wide + i])), y_sum);
      ASSERT_EQ(static_cast<double>(static_cast<float>(dx.data()[r * wide + i])), dx_sum);
    }
  }
}

TYPED_TEST(bf16_matmul, leaves_rows_of_no_group_alone) {
  machine m(1, TypeParam::needed);
  operands<bf16> o(64, 64, {5, 20, 9}, false);
  o.groups.erase(o.groups.begin() + 1);
  auto y = filled<bf16>(o.row_count * 64, 42.0F);
  auto dx = filled<bf16>(o.row_count * 64, 42.0F);
  TypeParam::forward(m, o.x_rows(), o.w.data(), y.data(), o.groups, 64, 64, false);
  TypeParam::input_gradient(m, o.dy_rows(), o.w.data(), dx.data(), o.groups, 64, 64, false);
  for (const auto* t : {&y, &dx}) {
    for (index i = 5 * 64; i < 25 * 64; ++i) ASSERT_EQ(static_cast<float>(t->data()[i]), 42.0F);
    ASSERT_NE(static_cast<float>(t->data()[0]), 42.0F);
    ASSERT_NE(static_cast<float>(t->data()[25 * 64]), 42.0F);
  }
}

}  // namespace bf16_matmul_tests
}  // namespace esft::test
#endif
