// SPDX-License-Identifier: Apache-2.0
// The block product, the transposes around it and the vector functions against plain loops, for every instruction set that this CPU has.
#include <esft/backends/eigen/panel_weight.hpp>
#include <esft/core/rng.hpp>

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace esft::detail::eigen {
namespace block_kernels_tests {

using floats = std::vector<float>;

std::size_t at(index i) { return static_cast<std::size_t>(i); }

/// Small integers, so that every order of the sums gives the same.
floats integers(index count, std::uint64_t seed) {
  counter_rng rng(seed, rng_stream::test);
  floats result;
  for (index i = 0; i < count; ++i) result.push_back(static_cast<float>(rng.below(static_cast<std::uint64_t>(i), 15)) - 7);
  return result;
}

class block_kernels : public testing::TestWithParam<isa> {
 protected:
  void SetUp() override {
    if (GetParam() > best_isa()) GTEST_SKIP() << "this CPU lacks " << name_of(GetParam());
  }
};

template <order Order>
void check_product(isa set) {
  constexpr index depth = 19;
  constexpr index left_stride = 23;
  constexpr index stride = 53;
  constexpr float beyond = 1e9F;
  for (const index rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 20}) {
    for (index columns = 1; columns <= block_columns; ++columns) {
      floats a = integers(left_stride * left_stride, 1);  // it ends with the last element used
      a.resize(at((Order == order::rows ? (rows - 1) * left_stride + depth : (depth - 1) * left_stride + rows)));
      floats b(at(depth * stride), beyond);  // what lies beside the columns must be neither used nor changed
      const floats numbers = integers(depth * columns, 2);
      for (index p = 0; p < depth; ++p) std::copy_n(numbers.begin() + p * columns, columns, b.begin() + p * stride);
      b.resize(at((depth - 1) * stride + columns));  // the last row ends with its last column
      for (const bool accumulate : {false, true}) {
        floats c(at(rows * stride), 3);
        block_product<Order>(set, rows, columns, depth, a.data(), left_stride, b.data(), stride, c.data(), stride, accumulate);
        for (index i = 0; i < rows; ++i) {
          for (index j = 0; j < stride; ++j) {
            float expected = accumulate || j >= columns ? 3 : 0;
            for (index p = 0; j < columns && p < depth; ++p) {
              expected += a[at(Order == order::rows ? i * left_stride + p : p * left_stride + i)] * b[at(p * stride + j)];
            }
            ASSERT_EQ(c[at(i * stride + j)], expected) << rows << " x " << columns << ": " << i << ", " << j;
          }
        }
      }
    }
  }
}

TEST_P(block_kernels, products_touch_their_columns_only) {
  check_product<order::rows>(GetParam());
  check_product<order::columns>(GetParam());
}

template <class T>
void check_transposes(isa set) {
  constexpr index stride = 37;
  const floats numbers = integers(block_columns * stride, 3);
  const std::vector<T> x(numbers.begin(), numbers.end());
  for (const index depth : {1, 7, 8, 16, 31, 37}) {
    for (const index rows : {1, 8, 15, 16, 33, 48}) {
      const index width = (rows + 15) / 16 * 16;
      floats to(at(depth * width), 99);
      const std::vector<T> just(x.begin(), x.begin() + (rows - 1) * stride + depth);
      pack_transposed(set, just.data(), rows, depth, stride, to.data(), width);
      for (index k = 0; k < depth; ++k) {
        for (index r = 0; r < width; ++r) {
          ASSERT_EQ(to[at(k * width + r)], r < rows ? numbers[at(r * stride + k)] : 0) << rows << " x " << depth << ": " << r << ", " << k;
        }
      }
    }
  }
  for (const bool accumulate : {false, true}) {
    for (const index rows : {3, 8}) {
      for (const index columns : {1, 8, 17, 48}) {
        const floats c = integers(block_rows * block_columns, 4);
        std::vector<T> y(at(columns * stride), T(5.0F));
        scatter_transposed(set, c.data(), rows, columns, y.data(), stride, accumulate);
        for (index j = 0; j < columns; ++j) {
          for (index i = 0; i < stride; ++i) {
            const float expected = i < rows ? c[at(i * block_columns + j)] + (accumulate ? 5.0F : 0.0F) : 5.0F;
            ASSERT_EQ(static_cast<float>(y[at(j * stride + i)]), expected) << rows << " x " << columns << ": " << i << ", " << j;
          }
        }
      }
    }
  }
}

TEST_P(block_kernels, transposes_move_every_element) {
  check_transposes<float>(GetParam());
  check_transposes<bf16>(GetParam());
}

TEST_P(block_kernels, panels_are_gathered_and_turned) {
  constexpr index width = 21;
  const floats x = integers(40 * width, 5);
  const row_source<float> source(x.data(), width);
  for (const index rows : {1, 9, 16}) {
    floats panel(at(width * panel_width), 99);
    rows_to_panel(GetParam(), source, 3, rows, width, panel.data());
    for (index k = 0; k < width; ++k) {
      for (index i = 0; i < panel_width; ++i) ASSERT_EQ(panel[at(k * panel_width + i)], i < rows ? x[at((3 + i) * width + k)] : 0);
    }
  }
  constexpr index depth = 32;
  for (const index columns : {5, 16, 40}) {
    const index padded = (columns + 15) / 16 * 16;
    const index from_panel = columns * panel_width;
    const floats from = integers(depth / panel_width * from_panel, 6);
    floats to(at(padded * depth), 99);
    turn_panels(GetParam(), from.data(), from_panel, depth, columns, to.data());
    for (index c = 0; c < padded; ++c) {
      for (index n = 0; n < depth; ++n) {
        const float expected = c < columns ? from[at(n / 16 * from_panel + c * 16 + n % 16)] : 0;
        ASSERT_EQ(to[at(c / 16 * 16 * depth + n * 16 + c % 16)], expected) << columns << ": " << c << ", " << n;
      }
    }
  }
}

TEST_P(block_kernels, blocks_of_tiles_become_panels) {
  constexpr matrix_layout layout = kernel_layout<bf16>;
  constexpr index rows = 128;
  constexpr index columns = 96;
  const floats numbers = integers(rows * columns, 7);
  std::vector<bf16> matrix(numbers.size());
  for (index r = 0; r < rows; ++r) {
    for (index c = 0; c < columns; ++c) matrix[at(layout.offset(r, c, columns))] = bf16(numbers[at(r * columns + c)]);
  }
  machine m(1, GetParam());
  for (const index panel : {0, 1, 2, 5}) {  // the second half of a strip as well
    for (const auto& [k, deep] : {std::pair<index, index>{0, 96}, {32, 64}}) {
      const weight_panels turned = panels_of_rows(m, 0, matrix.data(), columns, panel, 2, k, deep);
      for (index v = 0; v < 2; ++v) {
        for (index c = 0; c < deep; ++c) {
          for (index i = 0; i < panel_width; ++i) {
            const float expected = numbers[at(((panel + v) * panel_width + i) * columns + k + c)];
            ASSERT_EQ(turned.data[v * turned.stride + c * panel_width + i], expected) << panel << ": " << v << ", " << c << ", " << i;
          }
        }
      }
    }
  }
  for (const auto& [panel, wide] : {std::pair<index, index>{0, 96}, {2, 32}, {4, 32}}) {
    const weight_panels widened = panels_of_columns(m, 0, matrix.data(), columns, panel, wide, 32, 96);
    for (index c = 0; c < wide; ++c) {
      for (index n = 0; n < 96; ++n) {
        const float expected = numbers[at((32 + n) * columns + panel * panel_width + c)];
        ASSERT_EQ(widened.data[c / panel_width * widened.stride + n * panel_width + c % panel_width], expected) << panel << ": " << n << ", " << c;
      }
    }
  }
}

template <class vec>
struct exponentials {
  ESFT_EIGEN_INLINE static void run(const float* x, float* y, index count) {
    for (index i = 0; i < count; i += lanes_of<vec>) {
      vec v;
      load(v, x + i, count - i);
      exp_in_place(v);
      store(y + i, v, count - i);
    }
  }
};
template <class vec>
struct roundings {
  ESFT_EIGEN_INLINE static void run(const float* x, bf16* y, index count) {
    for (index i = 0; i < count; i += lanes_of<vec>) {
      vec v;
      load(v, x + i, count - i);
      store(y + i, v, count - i);
    }
  }
};
template <class vec>
struct sums {
  ESFT_EIGEN_INLINE static void run(const float* x, float* sum, float* largest, float* roots) {
    vec v;
    load(v, x);
    *sum = sum_of(v);
    *largest = max_of(v);
    square_root(v);
    store(roots, v);
  }
};

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

TEST_P(block_kernels, the_exponential_is_within_two_ulp_and_keeps_special_numbers) {
  floats x = {0, -0.0F, 1, -1, 88.7F, 89, 200, -87.3F, -100, -103.9F, -104, -300, infinity, -infinity, nan, -nan};
  for (index i = 0; i < 2000; ++i) x.push_back(static_cast<float>(i - 1000) * 0.0871F);
  floats y(x.size());
  call<exponentials>(GetParam(), static_cast<const float*>(x.data()), y.data(), static_cast<index>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float exact = static_cast<float>(std::exp(static_cast<double>(x[i])));
    if (std::isnan(exact) || std::isinf(exact)) {
      EXPECT_EQ(std::isnan(y[i]), std::isnan(exact)) << x[i];
      EXPECT_EQ(std::isinf(y[i]), std::isinf(exact)) << x[i];
    } else {
      const auto apart = std::abs(std::bit_cast<std::int32_t>(y[i]) - std::bit_cast<std::int32_t>(exact));
      EXPECT_LE(apart, 2) << "e^" << x[i];
    }
  }
}

TEST_P(block_kernels, rounding_to_bf16_is_to_nearest_even_and_keeps_nan) {
  floats x;
  for (const std::uint32_t bits : {0U, 0x80000000U, 0x3f808000U, 0x3f818000U, 0x3f80ffffU, 0x7f7fffffU, 0x7f800000U, 0xff800000U, 0x7f800001U,
                                   0xffffffffU, 0x00000001U, 0x3f807fffU}) {
    x.push_back(std::bit_cast<float>(bits));
  }
  for (int i = 0; i < 29; ++i) x.push_back(std::bit_cast<float>(0x3f000000U + 0x1357U * static_cast<std::uint32_t>(i)));
  std::vector<bf16> y(x.size());
  call<roundings>(GetParam(), static_cast<const float*>(x.data()), y.data(), static_cast<index>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto expected = std::bit_cast<std::uint16_t>(bf16(x[i]));
    EXPECT_EQ(std::bit_cast<std::uint16_t>(y[i]), expected) << std::hexfloat << x[i];
  }
}

TEST_P(block_kernels, sums_maxima_and_roots_take_every_lane) {
  for (int lane = 0; lane < 4; ++lane) {  // the narrowest vector has four
    floats x(at(lanes), 1);
    x[at(lane)] = 9;
    float sum = 0;
    float largest = 0;
    floats roots(at(lanes), 0);
    call<sums>(GetParam(), static_cast<const float*>(x.data()), &sum, &largest, roots.data());
    const float used = GetParam() >= isa::avx512 ? 16 : GetParam() == isa::avx2 ? 8 : 4;
    EXPECT_EQ(sum, used + 8);
    EXPECT_EQ(largest, 9);
    for (int i = 0; i < static_cast<int>(used); ++i) EXPECT_EQ(roots[at(i)], i == lane ? 3 : 1);
  }
}

INSTANTIATE_TEST_SUITE_P(cpu, block_kernels, testing::Values(isa::generic, isa::avx2, isa::avx512),
                         [](const auto& instance) { return std::string(name_of(instance.param)); });

}  // namespace block_kernels_tests
}  // namespace esft::detail::eigen
