// SPDX-License-Identifier: Apache-2.0
// Products over the rows of selected experts, and of thin matrices: exact on small integers, for every instruction set, and nothing else
// is touched.
#include "numeric.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/nn/weight.hpp>

#include <algorithm>
#include <cstddef>
#include <new>
#include <string>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <gtest/gtest.h>

namespace esft::test {
namespace selected_tests {

constexpr float poison = 77;
const std::vector<std::int32_t> offsets{0, 5, 5, 40, 47};  // four experts, one of them idle; three rows belong to nobody
const std::vector<std::int32_t> selected{0, 1, 2};
constexpr index row_count = 50;
constexpr index tokens = 25;

/// -1, 0 and 1: every sum below is exact, also in bf16.
std::vector<float> signs(index count, std::uint64_t seed) {
  const counter_rng rng(seed, rng_stream::test);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(rng.below(i, 3)) - 1;
  return values;
}

/// Rows of experts that are selected, with the matrix they meet.
template <class Visit>
void for_selected(Visit&& visit) {
  for (std::size_t s = 0; s < selected.size(); ++s) {
    const auto e = static_cast<std::size_t>(selected[s]);
    for (index r = offsets[e]; r < offsets[e + 1]; ++r) visit(static_cast<std::size_t>(r), s);
  }
}

template <class T>
class selected_products : public ::testing::Test {
 protected:
  /// Runs `body(backend)` on every instruction set of this CPU.
  template <class Body>
  void on_each_set(Body&& body) {
    int sets = 0;
    for (const char* set : {"generic", "avx2", "avx512", "avx512_bf16", "amx"}) {
      eigen_backend<T> backend(2);
      try {
        backend.use(set);
      } catch (const contract_violation&) {
        continue;
      }
      SCOPED_TRACE(set);
      body(backend);
      ++sets;
    }
    EXPECT_GE(sets, 1);
  }
  /// Matrices in the layout that the backend reads best.
  template <std::size_t Rank, parameter_role Role>
  static void fill(eigen_backend<T>& b, weight<eigen_backend<T>, Rank, Role>& w, extents<Rank> shape, const std::vector<float>& values) {
    allocate(b, w, shape);
    esft::copy_in(b, std::span<const float>(values), w);
  }
};
using stored = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(selected_products, stored);

// Extents that whole tiles cover, and thin ones on either side that they do not.
const std::vector<std::pair<index, index>> shapes{{64, 96}, {8, 70}, {70, 8}, {33, 17}, {128, 4}, {3, 128}, {96, 64}};

TYPED_TEST(selected_products, forward_and_input_gradient_equal_plain_sums) {
  using T = TypeParam;
  this->on_each_set([&](eigen_backend<T>& b) {
    for (const auto& [n, k] : shapes) {
      SCOPED_TRACE("[" + std::to_string(n) + ", " + std::to_string(k) + "]");
      const auto rows = static_cast<std::size_t>(n);
      const auto columns = static_cast<std::size_t>(k);
      const auto w_values = signs(3 * n * k, 1);
      weight<eigen_backend<T>, 3, parameter_role::expert_down> w;
      this->fill(b, w, extents<3>{3, n, k}, w_values);
      const auto ids = esft_test::make_ids(b, extents<1>{5}, offsets);
      const auto at = [&](std::size_t s, std::size_t i, std::size_t j) { return w_values[(s * rows + i) * columns + j]; };
      for (const bool gathered : {false, true}) {
        std::vector<std::int32_t> slots;
        for (std::int32_t r = 0; r < row_count; ++r) slots.push_back((r * 7) % static_cast<std::int32_t>(row_count));
        const auto slot = esft_test::make_ids(b, extents<1>{row_count}, slots);
        for (const write_mode mode : {write_mode::overwrite, write_mode::accumulate}) {
          const auto run = [&](index from, index to, auto op, auto element) {
            const index source_rows = gathered ? tokens : row_count;
            const auto values = signs(source_rows * from, 2);
            const auto x = esft_test::make<T>(b, extents<2>{source_rows, from}, values);
            const auto start = signs(row_count * to, 3);
            auto y = esft_test::make<T>(b, extents<2>{row_count, to}, start);
            if (gathered) {
              op(gathered_rows<const T, host_space>{x.view(), slot.view(), 2}, y.view(), mode);
            } else {
              op(x.view(), y.view(), mode);
            }
            auto want = start;
            for_selected([&](std::size_t r, std::size_t s) {
              const std::size_t source = gathered ? static_cast<std::size_t>(slots[r]) / 2 : r;
              for (std::size_t j = 0; j < static_cast<std::size_t>(to); ++j) {
                float sum = mode == write_mode::accumulate ? start[r * static_cast<std::size_t>(to) + j] : 0;
                for (std::size_t i = 0; i < static_cast<std::size_t>(from); ++i) {
                  sum += values[source * static_cast<std::size_t>(from) + i] * element(s, i, j);
                }
                want[r * static_cast<std::size_t>(to) + j] = sum;
              }
            });
            EXPECT_EQ(esft_test::to_host<float>(b, y), want) << (gathered ? "gathered" : "contiguous");
          };
          run(k, n, [&](auto x, auto y, write_mode how) { b.grouped_linear(x, w.matrix(), ids.view(), selected, y, how); },
              [&](std::size_t s, std::size_t i, std::size_t j) { return at(s, j, i); });
          run(n, k, [&](auto x, auto y, write_mode how) { b.grouped_linear_dx(x, w.matrix(), ids.view(), selected, y, how); },
              [&](std::size_t s, std::size_t i, std::size_t j) { return at(s, i, j); });
        }
      }
    }
  });
}

TYPED_TEST(selected_products, weight_gradients_of_thin_matrices_equal_plain_sums) {
  using T = TypeParam;
  this->on_each_set([&](eigen_backend<T>& b) {
    for (const auto& [n, k] : shapes) {
      SCOPED_TRACE("[" + std::to_string(n) + ", " + std::to_string(k) + "]");
      const auto rows = static_cast<std::size_t>(n);
      const auto columns = static_cast<std::size_t>(k);
      const auto dy_values = signs(row_count * n, 4);
      const auto x_values = signs(row_count * k, 5);
      const auto dy = esft_test::make<T>(b, extents<2>{row_count, n}, dy_values);
      const auto x = esft_test::make<T>(b, extents<2>{row_count, k}, x_values);
      const auto ids = esft_test::make_ids(b, extents<1>{5}, offsets);
      weight<eigen_backend<T>, 3, parameter_role::expert_down> w;
      this->fill(b, w, extents<3>{3, n, k}, signs(3 * n * k, 1));
      w.train(b);
      std::vector<float> want(3 * rows * columns);
      for (const int times : {1, 2}) {  // the second call adds
        b.grouped_linear_dw(dy.view(), x.view(), ids.view(), selected, w.gradient_matrix());
        for_selected([&](std::size_t r, std::size_t s) {
          for (std::size_t i = 0; i < rows; ++i) {
            for (std::size_t j = 0; j < columns; ++j)
              want[(s * rows + i) * columns + j] += dy_values[r * rows + i] * x_values[r * columns + j];
          }
        });
        EXPECT_EQ(esft_test::to_host<float>(b, w.gradient), want) << times;
      }
    }
  });
}

#if defined(__linux__)
/// Two pages of memory, the first full of ones, the second not to be touched.
template <class T>
class guarded_rows {
 public:
  guarded_rows()
      : page_(::sysconf(_SC_PAGESIZE)),
        at_(::mmap(nullptr, 2 * size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (at_ == MAP_FAILED) throw std::bad_alloc();
    std::fill_n(static_cast<T*>(at_), size() / sizeof(T), T(1.0F));
    if (::mprotect(static_cast<std::byte*>(at_) + size(), size(), PROT_NONE) != 0) throw std::bad_alloc();
  }
  guarded_rows(const guarded_rows&) = delete;
  guarded_rows& operator=(const guarded_rows&) = delete;
  ~guarded_rows() { ::munmap(at_, 2 * size()); }
  [[nodiscard]] index readable(index width) const { return page_ / (width * index{sizeof(T)}); }
  [[nodiscard]] host_view<const T, 2> view(index width) const {
    return {static_cast<const T*>(at_), extents<2>{2 * readable(width), width}};
  }

 private:
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(page_); }
  index page_;
  void* at_;
};

TYPED_TEST(selected_products, routed_rows_of_other_experts_are_not_even_read) {
  using T = TypeParam;
  const std::vector<std::int32_t> some{0, 3};  // 5 and 7 rows; between them lie the 35 rows of expert 2
  const guarded_rows<T> guarded;
  this->on_each_set([&](eigen_backend<T>& b) {
    for (const index width : {8, 64}) {  // row-major, in whole tiles
      SCOPED_TRACE(width);
      std::vector<std::int32_t> slots;
      for (std::int32_t r = 0; r < row_count; ++r) {
        const bool selected_row = r < offsets[1] || (r >= offsets[3] && r < offsets[4]);
        slots.push_back(selected_row ? r % 3 : static_cast<std::int32_t>(guarded.readable(width)) + r % 3);
      }
      const auto slot = esft_test::make_ids(b, extents<1>{row_count}, slots);
      const auto ids = esft_test::make_ids(b, extents<1>{5}, offsets);
      const gathered_rows<const T, host_space> routed{guarded.view(width), slot.view(), 1};
      const auto cells = static_cast<std::size_t>(row_count * width);
      const auto ones = esft_test::make<T>(b, extents<2>{row_count, width}, std::vector<float>(cells, 1));
      const std::vector<float> of_weight(static_cast<std::size_t>(2 * width * width), 1);
      weight<eigen_backend<T>, 3, parameter_role::expert_down> w;
      this->fill(b, w, extents<3>{2, width, width}, of_weight);
      EXPECT_EQ(w.layout().row_major(), width == 8);
      auto y = esft_test::make<T>(b, extents<2>{row_count, width}, std::vector<float>(cells, poison));
      b.grouped_linear(routed, std::as_const(w).matrix(), ids.view(), some, y.view(), write_mode::overwrite);
      EXPECT_EQ(static_cast<float>(y.view()(4, 0)), static_cast<float>(width));
      EXPECT_EQ(static_cast<float>(y.view()(5, 0)), poison);
      b.grouped_linear_dx(routed, std::as_const(w).matrix(), ids.view(), some, y.view(), write_mode::accumulate);
      EXPECT_EQ(static_cast<float>(y.view()(46, 1)), static_cast<float>(2 * width));
      for (const bool dy_routed : {false, true}) {
        w.train(b);
        if (dy_routed) {
          b.grouped_linear_dw(routed, ones.view(), ids.view(), some, w.gradient_matrix());
        } else {
          b.grouped_linear_dw(ones.view(), routed, ids.view(), some, w.gradient_matrix());
        }
        std::vector<float> want(of_weight.size(), 5);
        std::fill(want.begin() + width * width, want.end(), 7.0F);
        EXPECT_EQ(esft_test::to_host<float>(b, w.gradient), want);
      }
    }
  });
}
#endif

TEST(selected_products_of_float, refuse_what_does_not_fit) {
  eigen_backend<float> b(1);
  const auto x = esft_test::make<float>(b, extents<2>{row_count, 4}, std::vector<float>(row_count * 4, 1));
  const auto w = esft_test::make<float>(b, extents<3>{3, 2, 4}, std::vector<float>(24, 1));
  auto y = esft_test::make<float>(b, extents<2>{row_count, 2}, std::vector<float>(row_count * 2, poison));
  const auto ids = esft_test::make_ids(b, extents<1>{5}, offsets);
  const auto call = [&](const std::vector<std::int32_t>& experts) {
    b.grouped_linear(x.view(), w.view(), ids.view(), experts, y.view(), write_mode::overwrite);
  };
  EXPECT_THROW(call({0, 1}), contract_violation);
  EXPECT_THROW(call({0, 1, 4}), contract_violation);
  EXPECT_THROW(call({0, 1, -1}), contract_violation);
  EXPECT_NO_THROW(call({0, 1, 3}));
  EXPECT_EQ(y.view()(46, 1), 4);
  EXPECT_EQ(y.view()(39, 1), poison);  // a row of expert 2
}

}  // namespace selected_tests
}  // namespace esft::test
