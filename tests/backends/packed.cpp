// SPDX-License-Identifier: Apache-2.0
// Weights in the backend's own order: reading routed rows while packing and SwiGLU in the product change no bit, and files see row-major
// order. Which kernels run is in native.cpp.
#include "ops.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/bf16_few_rows.hpp>
#include <esft/backends/eigen/isa.hpp>
#include <esft/moe.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

namespace esft::test {
namespace packed_tests {

template <class T>
class packed : public testing::Test {};
using storage_types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(packed, storage_types);

/// Operands of one layer's experts: 5 experts, tokens that choose 2 each; one expert gets no token.
template <class T, index Tokens = 37>
struct operands {
  static constexpr index tokens = Tokens, active = 2, experts = 5, width = 64, inner = 96;
  using backend_type = eigen_backend<T>;

  operands(backend_type& b, matrix_layout layout) {
    generator g(5);
    const auto fill = [&](auto shape, double scale) {
      auto t = b.template make_tensor<T>(shape);
      const numbers n = g({t.size()}, scale);
      for (index i = 0; i < t.size(); ++i) t.data()[i] = T(static_cast<float>(n.values[static_cast<std::size_t>(i)]));
      return t;
    };
    x = fill(extents<2>{tokens, width}, 1);
    wide = fill(extents<2>{tokens * active, 2 * inner}, 1);
    auto w = fill(extents<3>{experts, 2 * inner, width}, 0.3);
    for (index e = 0; e < experts; ++e) b.rearrange(w.view()[e], matrix_layout{}, layout);
    gate_up = matrix_tensor<T, 3, host_space>(std::move(w), layout);
    auto ids = make_host_tensor<std::int32_t, 2>({tokens, active});
    for (index t = 0; t < tokens; ++t) {
      ids.view()(t, 0) = t % 3 == 0 ? 4 : 0;
      ids.view()(t, 1) = t % 2 == 0 ? 1 : 3;  // nobody chooses expert 2
    }
    offsets = make_host_tensor<std::int32_t, 1>({experts + 1});
    row_slot = make_host_tensor<std::int32_t, 1>({tokens * active});
    auto slot_row = make_host_tensor<std::int32_t, 2>({tokens, active});
    b.dispatch(std::as_const(ids).view(), offsets.view(), row_slot.view(), slot_row.view());
  }
  [[nodiscard]] gathered_rows<const T, host_space> rows() const { return {x.view(), row_slot.view(), active}; }
  [[nodiscard]] auto gathered(backend_type& b) const {
    auto y = b.template make_tensor<T>(extents<2>{tokens * active, width});
    b.gather(x.view(), row_slot.view(), active, y.view());
    return y;
  }
  /// Weights of the second product, the numbers of the first one's.
  matrix_tensor<T, 3, host_space> down(eigen_backend<T>& b, matrix_layout layout) const {
    auto values = b.template make_tensor<T>(extents<3>{experts, width, inner});
    std::copy_n(gate_up.data(), values.size(), values.data());
    return {std::move(values), layout};
  }
  /// Weights of the experts for their tokens.
  host_tensor<float, 2> weights(eigen_backend<T>& b) const {
    auto values = b.template make_tensor<float>(extents<2>{tokens, active});
    for (index i = 0; i < values.size(); ++i) values.data()[i] = 0.1F + 0.01F * static_cast<float>(i % 31);
    return values;
  }
  host_tensor<T, 2> x, wide;
  matrix_tensor<T, 3, host_space> gate_up;
  host_tensor<std::int32_t, 1> offsets, row_slot;
};

template <class T, std::size_t R>
bool same_bytes(const host_tensor<T, R>& a, const host_tensor<T, R>& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

/// Runs `check(backend, layout)` for every instruction set of this CPU, and both layouts.
template <class T, class Check>
void on_every_path(Check&& check) {
  for (const auto set : detail::eigen::all_isas) {
    if (set > detail::eigen::best_isa_for<T>()) continue;
    for (const matrix_layout layout : {matrix_layout{}, eigen_backend<T>::tile}) {
      eigen_backend<T> backend(2);
      backend.use(detail::eigen::name_of(set));
      SCOPED_TRACE(backend.isa());
      check(backend, layout);
    }
  }
}

TYPED_TEST(packed, reading_rows_through_routing_changes_no_bit) {
  using T = TypeParam;
  on_every_path<T>([](eigen_backend<T>& b, matrix_layout layout) {
    const operands<T> o(b, layout);
    const auto at = o.offsets.view();
    const auto rows = o.gathered(b);
    auto y = b.template make_tensor<T>(o.wide.shape());
    auto z = b.template make_tensor<T>(o.wide.shape());
    b.grouped_linear(rows.view(), o.gate_up.matrix(), at, y.view());
    b.grouped_linear(o.rows(), o.gate_up.matrix(), at, z.view());
    EXPECT_TRUE(same_bytes(y, z));

    // dx of a gathered dy: the same matrices seen as [5, 64, 192] would be another layout, so a square product does
    auto square = matrix_tensor<T, 3, host_space>(b.template make_tensor<T>(extents<3>{5, 64, 64}), layout);
    std::copy_n(o.gate_up.data(), square.size(), square.data());
    auto dx = b.template make_tensor<T>(rows.shape());
    auto dx_gathered = b.template make_tensor<T>(rows.shape());
    b.grouped_linear_dx(rows.view(), std::as_const(square).matrix(), at, dx.view());
    b.grouped_linear_dx(o.rows(), std::as_const(square).matrix(), at, dx_gathered.view());
    EXPECT_TRUE(same_bytes(dx, dx_gathered));

    const std::vector<std::int32_t> selected{0, 2, 3};
    const auto gradient = [&](index n, index k, auto&& run) {
      auto t = b.template make_tensor<float>(extents<3>{3, n, k});
      b.fill(t.view(), 0.5F);
      run(matrix_view<float, 3, host_space>(t.view(), layout));
      return t;
    };
    const auto wide = o.wide.view();
    EXPECT_TRUE(same_bytes(gradient(192, 64, [&](auto dw) { b.grouped_linear_dw(wide, rows.view(), at, selected, dw); }),
                           gradient(192, 64, [&](auto dw) { b.grouped_linear_dw(wide, o.rows(), at, selected, dw); })));
    const auto plain = gradient(64, 192, [&](auto dw) { b.grouped_linear_dw(rows.view(), wide, at, selected, dw); });
    EXPECT_TRUE(same_bytes(plain, gradient(64, 192, [&](auto dw) { b.grouped_linear_dw(o.rows(), wide, at, selected, dw); })));
    for (index i = 0; i < 64 * 192; ++i) ASSERT_EQ(plain.view()[1].flat()[i], 0.5F);  // expert 2 has no row
    EXPECT_NE(plain.view()[0].flat()[0], 0.5F);
  });
}

TYPED_TEST(packed, swiglu_in_the_product_changes_no_bit) {
  using T = TypeParam;
  on_every_path<T>([](eigen_backend<T>& b, matrix_layout layout) {
    const operands<T> o(b, layout);
    auto y = b.template make_tensor<T>(o.wide.shape());
    auto h = b.template make_tensor<T>(extents<2>{o.wide.extent(0), o.inner});
    auto fused = b.template make_tensor<T>(y.shape());
    auto fused_h = b.template make_tensor<T>(h.shape());
    b.grouped_linear(o.rows(), o.gate_up.matrix(), o.offsets.view(), y.view());
    b.swiglu(std::as_const(y).view(), h.view());
    b.grouped_swiglu(o.rows(), o.gate_up.matrix(), o.offsets.view(), fused.view(), fused_h.view());
    EXPECT_TRUE(same_bytes(y, fused));
    EXPECT_TRUE(same_bytes(h, fused_h));
    EXPECT_NE(static_cast<float>(h.data()[7]), 0.0F);
  });
}

/// What a layer's backward leaves for its inputs and its trained experts.
struct mlp_results {
  host_tensor<bf16, 2> gate_up, y, dgate_up, weighted_h, dx;
  host_tensor<float, 2> dweights;

  template <class Operands>
  mlp_results(eigen_backend<bf16>& b, const Operands& o)
      : gate_up(b.make_tensor<bf16>(o.wide.shape())), y(b.make_tensor<bf16>(extents<2>{o.wide.extent(0), o.width})),
        dgate_up(b.make_tensor<bf16>(o.wide.shape())), weighted_h(b.make_tensor<bf16>(extents<2>{o.wide.extent(0), o.inner})),
        dx(b.make_tensor<bf16>(y.shape())), dweights(b.make_tensor<float>(extents<2>{o.tokens, o.active})) {
    for (auto* t : {&gate_up, &y, &dgate_up, &weighted_h, &dx}) b.fill(t->view(), bf16(7.0F));
    b.fill(dweights.view(), 7.0F);
  }
};

/// Rows of one expert hold the same bytes.
bool same_rows(const host_tensor<bf16, 2>& a, const host_tensor<bf16, 2>& b, index begin, index end) {
  const index width = a.extent(1);
  return std::memcmp(a.data() + begin * width, b.data() + begin * width, static_cast<std::size_t>((end - begin) * width) * sizeof(bf16)) == 0;
}

template <index Tokens>
void expect_the_same_bits_together() {
  on_every_path<bf16>([](eigen_backend<bf16>& b, matrix_layout layout) {
    const operands<bf16, Tokens> o(b, layout);
    const auto at = o.offsets.view();
    const auto down = o.down(b, layout);
    const auto weights = o.weights(b);
    const std::vector<std::int32_t> selected{1, 4};

    mlp_results apart(b, o);
    auto h = b.make_tensor<bf16>(apart.weighted_h.shape());
    auto dh = b.make_tensor<bf16>(h.shape());
    b.grouped_linear(o.rows(), o.gate_up.matrix(), at, apart.gate_up.view());
    b.swiglu(std::as_const(apart.gate_up).view(), h.view());
    b.grouped_linear(std::as_const(h).view(), down.matrix(), at, apart.y.view());
    b.grouped_linear_dx(o.rows(), down.matrix(), at, dh.view());
    b.weighted_swiglu_backward(std::as_const(apart.gate_up).view(), std::as_const(dh).view(), weights.view(),
                               o.row_slot.view(), apart.dgate_up.view(), apart.weighted_h.view(), apart.dweights.view());
    b.grouped_linear_dx(std::as_const(apart.dgate_up).view(), o.gate_up.matrix(), at, apart.dx.view());

    for (const int threads : {1, 2, 7}) {
      eigen_backend<bf16> other(threads);
      other.use(b.isa());
      mlp_results together(other, o);
      const bool served = other.grouped_mlp(o.rows(), o.gate_up.matrix(), down.matrix(), at, nullptr, nullptr, together.gate_up.view(),
                                            together.y.view());
      const bool native = !layout.row_major() && (b.isa() == "amx" || b.isa() == "avx512_bf16");
      EXPECT_EQ(served, native && (threads == 1 || at[1] <= detail::eigen::few_rows));  // more threads have too few tasks here
      const bool back = other.grouped_mlp_backward(o.rows(), o.gate_up.matrix(), down.matrix(), at, selected, nullptr, nullptr,
                                                   std::as_const(apart.gate_up).view(), weights.view(), o.row_slot.view(),
                                                   together.dgate_up.view(), together.weighted_h.view(), together.dx.view(),
                                                   together.dweights.view());
      EXPECT_EQ(back, served);
      if (!served) {
        EXPECT_EQ(static_cast<float>(together.y.data()[5]), 7.0F);  // nothing done
        EXPECT_EQ(static_cast<float>(together.dx.data()[5]), 7.0F);
        continue;
      }
      SCOPED_TRACE(threads);
      EXPECT_TRUE(same_bytes(apart.gate_up, together.gate_up));
      EXPECT_TRUE(same_bytes(apart.y, together.y));
      EXPECT_TRUE(same_bytes(apart.dx, together.dx));
      EXPECT_TRUE(same_bytes(apart.dweights, together.dweights));
      for (const std::int32_t e : selected) {
        ASSERT_LT(at[e], at[e + 1]);
        EXPECT_TRUE(same_rows(apart.dgate_up, together.dgate_up, at[e], at[e + 1])) << e;
        EXPECT_TRUE(same_rows(apart.weighted_h, together.weighted_h, at[e], at[e + 1])) << e;
      }
      EXPECT_NE(static_cast<float>(together.dx.data()[5]), 7.0F);
      if (threads == 1 && !layout.row_major() && b.isa() == "amx") {
        EXPECT_EQ(other.products("tiles"), 4);
        const float first = static_cast<float>(together.dgate_up.data()[0]);
        EXPECT_EQ(first == 7.0F, at[1] > detail::eigen::few_rows);  // expert 0 is frozen: nothing of it is stored
      }
    }
  });
}

/// Largest difference relative to the largest value, over the rows [begin, end).
double distance(const host_tensor<bf16, 2>& a, const host_tensor<bf16, 2>& b, index begin, index end) {
  double largest = 0;
  double difference = 0;
  for (index i = begin * a.extent(1); i < end * a.extent(1); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(static_cast<float>(a.data()[i]))));
    difference = std::max(difference, std::abs(static_cast<double>(static_cast<float>(a.data()[i]) - static_cast<float>(b.data()[i]))));
  }
  return difference / largest;
}

/// Factors of rank r beside experts 1 and 3, with room for what passes through them.
struct test_factors {
  matrix_tensor<bf16, 3, host_space> a, b;
  host_tensor<bf16, 2> inner;
  std::vector<std::int32_t> experts{1, 3};

  test_factors(eigen_backend<bf16>& backend, index rank, index height, index width, index rows, unsigned seed)
      : a(filled(backend, {2, rank, width}, seed)), b(filled(backend, {2, height, rank}, seed + 1)),
        inner(backend.make_tensor<bf16>(extents<2>{rows, rank})) {
    backend.fill(inner.view(), bf16(7.0F));
  }
  [[nodiscard]] grouped_factors<bf16, host_space> operand() { return {a.matrix(), b.matrix(), experts, 0.5F, inner.view()}; }

 private:
  static matrix_tensor<bf16, 3, host_space> filled(eigen_backend<bf16>& backend, extents<3> shape, unsigned seed) {
    weight<eigen_backend<bf16>, 3, parameter_role::low_rank_a> w;  // as `make_low_rank` does: in the backend's order where whole tiles fit
    allocate(backend, w, shape);
    generator g(seed);
    const numbers n = g({w.value.size()}, 0.1);
    for (index i = 0; i < w.value.size(); ++i) w.value.data()[i] = bf16(static_cast<float>(n.values[static_cast<std::size_t>(i)]));
    return std::move(w.value);
  }
};

TEST(packed_mlp, factors_inside_the_products_agree_with_the_ops) {
  for (const index rank : {8, 32}) {
    on_every_path<bf16>([rank](eigen_backend<bf16>& b, matrix_layout layout) {
      if (layout.row_major() || (b.isa() != "amx" && b.isa() != "avx512_bf16")) return;
      const operands<bf16> o(b, layout);
      SCOPED_TRACE(rank);
      const index rows = o.wide.extent(0);
      const auto at = o.offsets.view();
      const auto down = o.down(b, layout);
      const auto weights = o.weights(b);
      test_factors up(b, rank, 2 * o.inner, o.width, rows, 11);
      test_factors low(b, rank, o.width, o.inner, rows, 13);
      const auto scaled = [&](host_tensor<bf16, 2>& t) {
        for (index i = 0; i < t.size(); ++i) t.data()[i] = bf16(0.5F * static_cast<float>(t.data()[i]));
      };

      mlp_results apart(b, o);
      auto h = b.make_tensor<bf16>(apart.weighted_h.shape());
      auto dh = b.make_tensor<bf16>(h.shape());
      std::vector<host_tensor<bf16, 2>> inner;  // of gate_up and down forward, of down and gate_up backward
      for (int i = 0; i < 4; ++i) {
        inner.push_back(b.make_tensor<bf16>(up.inner.shape()));
        b.fill(inner.back().view(), bf16(0.0F));
      }
      const auto mode = write_mode::accumulate;
      b.grouped_linear(o.rows(), o.gate_up.matrix(), at, apart.gate_up.view());
      b.grouped_linear(o.rows(), std::as_const(up.a).matrix(), at, up.experts, inner[0].view(), write_mode::overwrite);
      scaled(inner[0]);
      b.grouped_linear(std::as_const(inner[0]).view(), std::as_const(up.b).matrix(), at, up.experts, apart.gate_up.view(), mode);
      b.swiglu(std::as_const(apart.gate_up).view(), h.view());
      b.grouped_linear(std::as_const(h).view(), down.matrix(), at, apart.y.view());
      b.grouped_linear(std::as_const(h).view(), std::as_const(low.a).matrix(), at, low.experts, inner[1].view(), write_mode::overwrite);
      scaled(inner[1]);
      b.grouped_linear(std::as_const(inner[1]).view(), std::as_const(low.b).matrix(), at, low.experts, apart.y.view(), mode);
      b.grouped_linear_dx(o.rows(), down.matrix(), at, dh.view());
      b.grouped_linear_dx(o.rows(), std::as_const(low.b).matrix(), at, low.experts, inner[2].view(), write_mode::overwrite);
      scaled(inner[2]);
      b.grouped_linear_dx(std::as_const(inner[2]).view(), std::as_const(low.a).matrix(), at, low.experts, dh.view(), mode);
      b.weighted_swiglu_backward(std::as_const(apart.gate_up).view(), std::as_const(dh).view(), weights.view(),
                                 o.row_slot.view(), apart.dgate_up.view(), apart.weighted_h.view(), apart.dweights.view());
      b.grouped_linear_dx(std::as_const(apart.dgate_up).view(), o.gate_up.matrix(), at, apart.dx.view());
      b.grouped_linear_dx(std::as_const(apart.dgate_up).view(), std::as_const(up.b).matrix(), at, up.experts, inner[3].view(),
                          write_mode::overwrite);
      scaled(inner[3]);
      b.grouped_linear_dx(std::as_const(inner[3]).view(), std::as_const(up.a).matrix(), at, up.experts, apart.dx.view(), mode);

      std::optional<mlp_results> first;
      for (const int threads : {1, 2, 7}) {
        SCOPED_TRACE(threads);
        eigen_backend<bf16> other(threads);
        other.use(b.isa());
        mlp_results together(other, o);
        const auto up_operand = up.operand();
        const auto low_operand = low.operand();
        ASSERT_TRUE(other.grouped_mlp(o.rows(), o.gate_up.matrix(), down.matrix(), at, &up_operand, &low_operand, together.gate_up.view(),
                                      together.y.view()));
        EXPECT_LT(distance(inner[0], up.inner, 0, rows), 0.01);
        EXPECT_LT(distance(inner[1], low.inner, 0, rows), 0.01);
        ASSERT_TRUE(other.grouped_mlp_backward(o.rows(), o.gate_up.matrix(), down.matrix(), at, up.experts, &up_operand, &low_operand,
                                               std::as_const(together.gate_up).view(), weights.view(), o.row_slot.view(),
                                               together.dgate_up.view(), together.weighted_h.view(), together.dx.view(),
                                               together.dweights.view()));
        EXPECT_LT(distance(inner[2], low.inner, 0, rows), 0.01);
        EXPECT_LT(distance(inner[3], up.inner, 0, rows), 0.01);
        EXPECT_LT(distance(apart.gate_up, together.gate_up, 0, rows), 0.01);
        EXPECT_LT(distance(apart.y, together.y, 0, rows), 0.01);
        EXPECT_LT(distance(apart.dx, together.dx, 0, rows), 0.01);
        for (const std::int32_t e : up.experts) {
          EXPECT_LT(distance(apart.dgate_up, together.dgate_up, at[e], at[e + 1]), 0.01);
          EXPECT_LT(distance(apart.weighted_h, together.weighted_h, at[e], at[e + 1]), 0.01);
        }
        EXPECT_TRUE(same_rows(apart.y, together.y, at[4], at[5]));  // an expert without factors
        EXPECT_TRUE(same_rows(apart.dx, together.dx, at[4], at[5]));
        if (!first) {
          first.emplace(std::move(together));
          continue;
        }
        EXPECT_TRUE(same_bytes(first->y, together.y));  // whatever the number of threads
        EXPECT_TRUE(same_bytes(first->dx, together.dx));
        EXPECT_TRUE(same_bytes(first->dweights, together.dweights));
      }
    });
  }
}

TEST(packed_mlp, both_products_together_change_no_bit) { expect_the_same_bits_together<37>(); }
TEST(packed_mlp, experts_of_few_rows_change_no_bit) { expect_the_same_bits_together<6>(); }
TEST(packed_mlp, experts_of_many_rows_are_cut_and_change_no_bit) { expect_the_same_bits_together<500>(); }

TYPED_TEST(packed, files_see_row_major_order_and_views_refuse) {
  using T = TypeParam;
  eigen_backend<T> b(1);
  weight<eigen_backend<T>, 3, parameter_role::expert_down> w;
  allocate(b, w, {2, 64, 96});
  ASSERT_EQ(w.layout(), eigen_backend<T>::tile);
  std::vector<float> numbers(static_cast<std::size_t>(w.value.size()));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i % 251);
  copy_in(b, std::span<const float>(numbers), w);
  std::vector<float> back(numbers.size());
  copy_out(b, w, std::span<float>(back));
  EXPECT_EQ(back, numbers);
  std::vector<float> part(3 * 96);
  copy_out(b, w.rows(1, 5, 3), std::span<float>(part));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), numbers.begin() + (64 + 5) * 96));
  EXPECT_NE(static_cast<float>(w.value.data()[33]), 33.0F);  // the memory itself is in another order
  EXPECT_THROW(static_cast<void>(w.value.view()), contract_violation);

  weight<eigen_backend<T>, 3, parameter_role::expert_down> odd;
  allocate(b, odd, {2, 7, 9});
  EXPECT_NO_THROW(static_cast<void>(odd.value.view()));
  weight<eigen_backend<T>, 2, parameter_role::embedding> table;
  allocate(b, table, {64, 96});
  EXPECT_NO_THROW(static_cast<void>(table.value.view()));
}

TYPED_TEST(packed, pack_moves_a_weight_and_its_gradient) {
  using T = TypeParam;
  eigen_backend<T> b(1);
  weight<eigen_backend<T>, 3, parameter_role::expert_down> w;
  w.value = b.template make_tensor<T>(extents<3>{3, 32, 64});
  for (index i = 0; i < w.value.size(); ++i) w.value.data()[i] = T(static_cast<float>(i % 255));
  w.train(b, {0, 2});
  for (index i = 0; i < w.gradient.size(); ++i) w.gradient.data()[i] = static_cast<float>(i);
  pack(b, w);
  EXPECT_EQ(w.layout(), eigen_backend<T>::tile);
  EXPECT_EQ(w.gradient.layout(), eigen_backend<T>::tile);
  for (const index e : {0, 1, 2}) {
    for (const index i : {0, 77, 2047}) {
      const index at = e * 2048 + w.layout().offset(i / 64, i % 64, 64);
      EXPECT_EQ(static_cast<float>(w.value.data()[at]), static_cast<float>((e * 2048 + i) % 255));
      if (e < 2) {
        EXPECT_EQ(w.gradient.data()[at], static_cast<float>(e * 2048 + i));
      }
    }
  }
  pack(b, w);  // nothing left to do
  EXPECT_EQ(static_cast<float>(w.value.data()[w.layout().offset(1, 13, 64)]), 77.0F);
}

/// Largest difference of the layer's output, input gradient and weight gradients from the reference in double, relative to the largest value.
template <class T>
double layer_error() {
  constexpr index tokens = 50, width = 64, inner = 32, experts = 6;
  const auto run = [&](auto& b) {
    using B = std::remove_cvref_t<decltype(b)>;
    generator g(3);
    moe_parameters<B> p;
    const auto fill = [&](auto& w, auto shape, double scale) {
      allocate(b, w, shape);
      std::vector<float> host;
      for (const double v : g({w.value.size()}, scale).values) host.push_back(static_cast<float>(bf16(static_cast<float>(v))));
      copy_in(b, std::span<const float>(host), w);
    };
    fill(p.router, extents<2>{experts, width}, 1);
    fill(p.gate_up, extents<3>{experts, 2 * inner, width}, 0.2);
    fill(p.down, extents<3>{experts, width, inner}, 0.2);
    p.gate_up.train(b, {1, 4});
    p.down.train(b, {1, 4});
    const auto values = [&] {
      auto t = b.template make_tensor<value_t<B>>(extents<2>{tokens, width});
      const numbers n = g({t.size()});
      for (index i = 0; i < t.size(); ++i) t.data()[i] = value_t<B>(static_cast<float>(bf16(static_cast<float>(n.values[static_cast<std::size_t>(i)]))));
      return t;
    };
    const auto x = values();
    const auto dy = values();
    auto y = b.template make_tensor<value_t<B>>(x.shape());
    auto dx = b.template make_tensor<value_t<B>>(x.shape());
    b.fill(y.view(), value_t<B>{});
    const softmax_topk_router choose(2, true);
    moe_saved<B> saved;
    moe_forward<B>(b, choose, p, x.view(), y.view(), saved);
    auto dx_view = dx.view();
    moe_backward<B>(b, choose, p, dy.view(), x.view(), saved, &dx_view);
    std::vector<std::vector<double>> results;
    const auto add = [&](const auto& t) {
      auto& out = results.emplace_back();
      for (index i = 0; i < t.size(); ++i) out.push_back(static_cast<double>(t.data()[i]));
    };
    add(y);
    add(dx);
    for (const index s : {0, 1}) {
      for (auto rows : {p.gate_up.gradient_rows(s, 0, 2 * inner), p.down.gradient_rows(s, 0, width)}) {
        auto& out = results.emplace_back(static_cast<std::size_t>(rows.size()));
        copy_out(b, rows, std::span<double>(out));
      }
    }
    return results;
  };
  reference_backend<double> reference;
  eigen_backend<T> backend(2);
  const auto expected = run(reference);
  const auto actual = run(backend);
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    double largest = 0;
    double difference = 0;
    for (std::size_t j = 0; j < expected[i].size(); ++j) {
      largest = std::max(largest, std::abs(expected[i][j]));
      difference = std::max(difference, std::abs(expected[i][j] - actual[i][j]));
    }
    EXPECT_GT(largest, 0);
    worst = std::max(worst, difference / largest);
  }
  return worst;
}

// bf16 rounds every stored activation by up to 2^-9; through up, SwiGLU, down and the sum over experts a handful of such errors meet.
TEST(packed_layer, matches_the_reference_in_double) {
  EXPECT_LT(layer_error<float>(), 1e-5);
  EXPECT_LT(layer_error<bf16>(), 8 * 0x1.0p-9);
}

}  // namespace packed_tests
}  // namespace esft::test
