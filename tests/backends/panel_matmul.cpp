// SPDX-License-Identifier: Apache-2.0
// Products with weights in panels of sixteen rows against loops in double, for every instruction set that this CPU has.
#include <esft/backends/eigen/panel_matmul.hpp>
#include <esft/backends/eigen/swiglu.hpp>
#include <esft/core/rng.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace esft::detail::eigen {
namespace panel_matmul_tests {

constexpr matrix_layout panels16{panel_width, 1};
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
using floats = std::vector<float>;

std::size_t at(index i) { return static_cast<std::size_t>(i); }

bool same_bits(const floats& a, const floats& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](float x, float y) {
           return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
         });
}

/// Operands of the four products, y = x w^T with w [matrices, height, columns] in panels.
struct problem {
  index height, columns;
  std::vector<index> rows;  ///< of each group
  bool gathered = false;
  bool integers = false;
};

struct operands {
  explicit operands(const problem& p, std::uint64_t seed = 7) : height(p.height), columns(p.columns), gathered(p.gathered) {
    counter_rng rng(seed, rng_stream::test);
    std::uint64_t counter = 0;
    const auto fill = [&](floats& to, index count) {
      for (index i = 0; i < count; ++i) {
        to.push_back(p.integers ? static_cast<float>(rng.below(counter++, 9)) - 4 : static_cast<float>(rng.normal(counter++)));
      }
    };
    matrices = static_cast<index>(p.rows.size());
    for (index g = 0; g < matrices; ++g) {
      const index count = p.rows[at(g)];
      groups.push_back({total, total + count, matrices - 1 - g});  // the matrix of a group is not its number
      total += count;
    }
    fill(w, matrices * height * columns);
    fill(x, (gathered ? total / 2 + 1 : total) * columns);
    fill(dy, (gathered ? total / 2 + 1 : total) * height);
    fill(old_y, total * height);
    fill(old_x, total * columns);
    for (index r = 0; r < total; ++r) slot.push_back(static_cast<std::int32_t>((r * 7 + 3) % total));
    std::stable_sort(groups.begin(), groups.end(), [](const row_group& a, const row_group& b) { return a.rows() < b.rows(); });
  }
  [[nodiscard]] row_source<float> rows_of(const floats& values, index width) const {
    row_source<float> source(values.data(), width);
    if (gathered) {
      source.slot = slot.data();
      source.active = 2;
    }
    return source;
  }
  [[nodiscard]] double weight(index matrix, index n, index k) const {
    return static_cast<double>(w[at(matrix * height * columns + panels16.offset(n, k, columns))]);
  }
  index height, columns;
  bool gathered;
  index matrices = 0;
  index total = 0;
  std::vector<row_group> groups;
  std::vector<std::int32_t> slot;
  floats w, x, dy, old_y, old_x;
};

/// The largest error of a float sum of `terms` products of total size `magnitude`, with room: see tolerance.hpp.
double allowed(index terms, double magnitude) { return 4 * std::sqrt(static_cast<double>(terms) + 1) * 0x1.0p-24 * magnitude; }

std::vector<isa> sets() {
  std::vector<isa> found{isa::generic};
  for (const isa set : {isa::avx2, isa::avx512}) {
    if (set <= best_isa()) found.push_back(set);
  }
  return found;
}

std::vector<problem> problems() {
  return {
      {48, 40, {7, 0, 33, 1}},                    // odd rows, columns that fill no panel, an empty group
      {16, 1, {5}},                               // the smallest matrix
      {64, 16, {16, 8, 9}, true},                 // four panels, gathered
      {32, 300, {0, 130, 3, 0, 2}, true},         // one hot group, more than one block of depth
      {304, 128, {65, 12}},                       // more than one block of depth of the input gradient
      {80, 33, {300, 1, 40}, true, true},         // small integers: exact; more than one block of rows
      {256, 256, {600, 1, 200}, true},            // a small weight, whose rows threads share
      {128, 144, {100, 0, 17, 64}, false, true},  // the same, in place
      {768, 512, {130, 2}},                       // more than one task; a row of dx is a multiple of 512
      {512, 200, {35, 1}, true},                  // a row of y is one
  };
}

class panel_matmul : public testing::TestWithParam<int> {
 protected:
  problem given() const { return problems()[at(GetParam())]; }
};

/// Checks y[r][n] of every row against a sum in double.
template <class Term, class Result>
void check_cells(const operands& o, bool integers, index wide, index terms, const Result& result, const Term& term, const floats* old) {
  const index stride = wide < 512 ? 1 : 7;  // of large results every seventh cell, others in every row
  for (const row_group& group : o.groups) {
    for (index r = group.begin; r < group.end; ++r) {
      for (index n = r % stride; n < wide; n += stride) {
        double sum = old == nullptr ? 0 : static_cast<double>((*old)[at(r * wide + n)]);
        double size = std::abs(sum);
        for (index k = 0; k < terms; ++k) {
          const double product = term(group.matrix, r, n, k);
          sum += product;
          size += std::abs(product);
        }
        const double bound = integers ? 0 : allowed(terms, size);
        ASSERT_NEAR(static_cast<double>(result[at(r * wide + n)]), sum, bound) << "row " << r << " column " << n;
      }
    }
  }
}

TEST_P(panel_matmul, forward_is_the_product) {
  const operands o(given());
  const row_source<float> x = o.rows_of(o.x, o.columns);
  const auto term = [&](index e, index r, index n, index k) { return static_cast<double>(x[r][k]) * o.weight(e, n, k); };
  for (const isa set : sets()) {
    SCOPED_TRACE(name_of(set));
    machine m(2, set);
    floats y(o.old_y.size(), nan);
    panel_forward(m, x, o.w.data(), y.data(), o.groups, o.height, o.columns, false);
    check_cells(o, given().integers, o.height, o.columns, y, term, nullptr);
    y = o.old_y;
    panel_forward(m, x, o.w.data(), y.data(), o.groups, o.height, o.columns, true);
    check_cells(o, given().integers, o.height, o.columns, y, term, &o.old_y);
  }
}

TEST_P(panel_matmul, input_gradient_is_the_product) {
  const operands o(given());
  const row_source<float> dy = o.rows_of(o.dy, o.height);
  const auto term = [&](index e, index r, index k, index n) { return static_cast<double>(dy[r][n]) * o.weight(e, n, k); };
  for (const isa set : sets()) {
    SCOPED_TRACE(name_of(set));
    machine m(2, set);
    floats dx(o.old_x.size(), nan);
    panel_input_gradient(m, dy, o.w.data(), dx.data(), o.groups, o.columns, o.height, false);
    check_cells(o, given().integers, o.columns, o.height, dx, term, nullptr);
    dx = o.old_x;
    panel_input_gradient(m, dy, o.w.data(), dx.data(), o.groups, o.columns, o.height, true);
    check_cells(o, given().integers, o.columns, o.height, dx, term, &o.old_x);
  }
}

TEST_P(panel_matmul, weight_gradient_adds_the_product_where_there_are_rows) {
  const operands o(given());
  const row_source<float> x = o.rows_of(o.x, o.columns);
  const row_source<float> dy = o.rows_of(o.dy, o.height);
  const index stride = o.columns < 512 ? 1 : 7;
  for (const isa set : sets()) {
    SCOPED_TRACE(name_of(set));
    machine m(2, set);
    floats dw = o.w;
    panel_weight_gradient(m, dy, x, dw.data(), o.groups, o.height, o.columns);
    std::vector<bool> met(at(o.matrices), false);
    for (const row_group& group : o.groups) {
      met[at(group.matrix)] = group.rows() > 0;
      for (index n = 0; n < o.height; ++n) {
        for (index k = n % stride; k < o.columns; k += stride) {
          double sum = o.weight(group.matrix, n, k);
          double size = std::abs(sum);
          for (index r = group.begin; r < group.end; ++r) {
            const double product = static_cast<double>(dy[r][n]) * static_cast<double>(x[r][k]);
            sum += product;
            size += std::abs(product);
          }
          const double bound = given().integers ? 0 : allowed(group.rows(), size);
          const index cell = group.matrix * o.height * o.columns + panels16.offset(n, k, o.columns);
          ASSERT_NEAR(static_cast<double>(dw[at(cell)]), sum, bound) << "row " << n << " column " << k;
        }
      }
    }
    const auto matrix = [&](const floats& of, index e) {
      const auto begin = of.begin() + e * o.height * o.columns;
      return floats(begin, begin + o.height * o.columns);
    };
    for (index e = 0; e < o.matrices; ++e) EXPECT_NE(same_bits(matrix(dw, e), matrix(o.w, e)), met[at(e)]) << "matrix " << e;
  }
}

TEST_P(panel_matmul, fused_swiglu_has_the_bits_of_the_two_ops) {
  problem p = given();
  p.height *= 2;  // gate and up
  const operands o(p);
  const index inner = p.height / 2;
  const row_source<float> x = o.rows_of(o.x, o.columns);
  for (const isa set : sets()) {
    SCOPED_TRACE(name_of(set));
    machine m(2, set);
    floats apart(o.old_y.size(), nan);
    floats fused(o.old_y.size(), nan);
    floats h_apart(o.old_y.size() / 2, nan);
    floats h_fused(o.old_y.size() / 2, nan);
    panel_forward(m, x, o.w.data(), apart.data(), o.groups, 2 * inner, o.columns, false);
    call<swiglu_rows>(set, static_cast<const float*>(apart.data()), o.total, inner, h_apart.data());
    panel_swiglu_forward(m, x, o.w.data(), fused.data(), h_fused.data(), o.groups, inner, o.columns);
    EXPECT_TRUE(same_bits(apart, fused));
    EXPECT_TRUE(same_bits(h_apart, h_fused));
    EXPECT_FALSE(std::any_of(h_fused.begin(), h_fused.end(), [](float v) { return std::isnan(v); }));
  }
}

TEST_P(panel_matmul, bits_do_not_depend_on_the_threads) {
  const operands o(given());
  const row_source<float> x = o.rows_of(o.x, o.columns);
  const row_source<float> dy = o.rows_of(o.dy, o.height);
  for (const isa set : sets()) {
    SCOPED_TRACE(name_of(set));
    const auto run = [&](int threads) {
      machine m(threads, set);
      std::vector<floats> result{o.old_y, o.old_x, o.w};
      panel_forward(m, x, o.w.data(), result[0].data(), o.groups, o.height, o.columns, true);
      panel_input_gradient(m, dy, o.w.data(), result[1].data(), o.groups, o.columns, o.height, true);
      panel_weight_gradient(m, dy, x, result[2].data(), o.groups, o.height, o.columns);
      return result;
    };
    const std::vector<floats> one = run(1);
    for (const int threads : {2, 4}) {
      const std::vector<floats> many = run(threads);
      for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(same_bits(one[i], many[i])) << threads << " threads, product " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(shapes, panel_matmul, testing::Range(0, static_cast<int>(problems().size())), [](const auto& info) {
  const problem p = problems()[at(info.param)];
  return std::to_string(p.height) + "x" + std::to_string(p.columns) + (p.gathered ? "_gathered" : "") + (p.integers ? "_integers" : "");
});

/// A row's result is its own: the rows beside it and how a group is cut change no bit.
TEST(panel_matmul_rows, a_row_does_not_depend_on_its_group) {
  const operands o({48, 300, {29}});
  for (const isa set : sets()) {
    machine m(1, set);
    floats together(at(29 * 48), nan);
    floats alone(at(29 * 48), nan);
    panel_forward(m, row_source<float>(o.x.data(), 300), o.w.data(), together.data(), {{0, 29, 0}}, 48, 300, false);
    std::vector<row_group> single;
    for (index r = 0; r < 29; ++r) single.push_back({r, r + 1, 0});
    panel_forward(m, row_source<float>(o.x.data(), 300), o.w.data(), alone.data(), single, 48, 300, false);
    EXPECT_TRUE(same_bits(together, alone)) << name_of(set);
  }
}

TEST(panel_matmul_rows, rows_outside_every_group_stay_as_they_are) {
  const operands o({32, 24, {20}});
  machine m(2, best_isa_for<float>());
  floats y(at(20 * 32), nan);
  panel_forward(m, row_source<float>(o.x.data(), 24), o.w.data(), y.data(), {{3, 11, 0}}, 32, 24, false);
  for (index r = 0; r < 20; ++r) EXPECT_EQ(std::isnan(y[at(r * 32)]), r < 3 || r >= 11) << r;
  panel_forward(m, row_source<float>(o.x.data(), 24), o.w.data(), y.data(), {}, 32, 24, false);  // no group, no work
}

}  // namespace panel_matmul_tests
}  // namespace esft::detail::eigen
