// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What the GPU backend promises besides numbers: routing of any bits, errors and where they come out, waits. Included by one source of
/// each program that has the backend.

#include "../backends/special_numbers.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/backends/cuda.hpp>
#include <esft/core/error.hpp>
#include <esft/core/rng.hpp>
#include <esft/moe/layer.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace esft::test {

class cuda_behaviour : public testing::Test {
 protected:
  void SetUp() override { backend.emplace(); }
  template <class U, std::size_t R>
  auto put(const std::vector<U>& values, extents<R> shape) {
    auto t = backend->make_tensor<U>(shape);
    backend->copy_in(std::span<const U>(values), t.view());
    return t;
  }
  template <class U, std::size_t R>
  std::vector<U> get(const tensor<U, R, cuda_space>& t) {
    std::vector<U> values(static_cast<std::size_t>(t.size()));
    backend->copy_out(t.view(), std::span<U>(values));
    return values;
  }
  std::optional<cuda_backend<float>> backend;
};

TEST_F(cuda_behaviour, any_bits_route_to_the_experts_that_the_reference_chooses) {
  const counter_rng rng(11, rng_stream::test);
  std::uint64_t at = 0;
  for (const auto& [experts, active] : {std::pair<index, index>{1, 1}, {7, 7}, {64, 6}, {65, 8}, {300, 33}, {1024, 40}}) {
    constexpr index tokens = 9;
    std::vector<float> logits(static_cast<std::size_t>(tokens * experts));
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const bool wild = i < static_cast<std::size_t>(3 * experts);  // three rows of any bits, three with ties, three ordinary ones
      const bool ties = !wild && i < static_cast<std::size_t>(6 * experts);
      const auto bits = static_cast<std::uint32_t>(rng.below(at++, 1ULL << 32U));
      logits[i] = wild ? std::bit_cast<float>(bits) : ties ? static_cast<float>(bits % 3) : static_cast<float>(rng.normal(at++));
    }
    for (const bool normalise : {false, true}) {
      const softmax_topk_router router(active, normalise, 2.5);
      reference_backend<float> reference;
      auto host = make_host_tensor<float, 2>({tokens, experts});
      std::copy(logits.begin(), logits.end(), host.data());
      const auto expected = router.route(reference, std::as_const(host).view());
      const auto device = put<float, 2>(logits, {tokens, experts});
      const auto actual = router.route(*backend, device.view());
      const auto ids = get(actual.ids);
      const auto weights = get(actual.weights);
      const auto probabilities = get(actual.probabilities);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        ASSERT_EQ(ids[i], expected.ids.data()[i]) << "slot " << i << " of " << experts << " experts";
        const float wanted = expected.weights.data()[i];
        ASSERT_TRUE(std::isnan(wanted) ? std::isnan(weights[i]) : std::abs(weights[i] - wanted) <= 1e-5F * std::abs(wanted) + 1e-30F);
      }
      for (std::size_t i = 0; i < probabilities.size(); ++i) {
        const float wanted = expected.probabilities.data()[i];
        ASSERT_TRUE(std::isnan(wanted) ? std::isnan(probabilities[i]) : std::abs(probabilities[i] - wanted) <= 1e-5F * wanted + 1e-30F);
      }
      for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t) {
        const auto row = ids.begin() + static_cast<std::ptrdiff_t>(t * static_cast<std::size_t>(active));
        EXPECT_EQ(std::set<std::int32_t>(row, row + active).size(), static_cast<std::size_t>(active));
      }
    }
  }
}

TEST_F(cuda_behaviour, many_slots_and_experts_are_sorted_stably) {
  const counter_rng rng(12, rng_stream::test);
  constexpr index tokens = 700;
  constexpr index active = 4;
  for (const index experts : {1, 64, 1500}) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens * active));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(rng.below(i, static_cast<std::uint64_t>(experts)));
    const auto device = put<std::int32_t, 2>(ids, {tokens, active});
    auto offsets = backend->make_tensor<std::int32_t>(extents<1>{experts + 1});
    auto row_slot = backend->make_tensor<std::int32_t>(extents<1>{tokens * active});
    auto slot_row = backend->make_tensor<std::int32_t>(extents<2>{tokens, active});
    backend->dispatch(device.view(), offsets.view(), row_slot.view(), slot_row.view());
    std::vector<std::int32_t> wanted(ids.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] = static_cast<std::int32_t>(i);
    std::stable_sort(wanted.begin(), wanted.end(), [&](std::int32_t a, std::int32_t b) {
      return ids[static_cast<std::size_t>(a)] < ids[static_cast<std::size_t>(b)];
    });
    EXPECT_EQ(get(row_slot), wanted);
    EXPECT_EQ(get(offsets).back(), tokens * active);
  }
}

TEST_F(cuda_behaviour, offsets_come_to_the_host_once_per_dispatch) {
  const auto ids = put<std::int32_t, 2>({1, 0, 1}, {3, 1});
  const auto other_ids = put<std::int32_t, 2>({0, 0, 0}, {3, 1});
  const auto x = put<float, 2>({1, 2, 3}, {3, 1});
  const auto w = put<float, 3>({10, 100}, {2, 1, 1});
  auto offsets = backend->make_tensor<std::int32_t>(extents<1>{3});
  auto row_slot = backend->make_tensor<std::int32_t>(extents<1>{3});
  auto slot_row = backend->make_tensor<std::int32_t>(extents<2>{3, 1});
  auto y = backend->make_tensor<float>(extents<2>{3, 1});
  const auto product = [&] { backend->grouped_linear(x.view(), w.view(), std::as_const(offsets).view(), y.view()); };
  const std::int64_t before = backend->host_synchronisations();
  backend->dispatch(ids.view(), offsets.view(), row_slot.view(), slot_row.view());
  EXPECT_EQ(backend->host_synchronisations(), before);
  for (int repeat = 0; repeat < 3; ++repeat) product();
  EXPECT_EQ(backend->host_synchronisations(), before + 1);
  EXPECT_EQ(get(y), (std::vector<float>{10, 200, 300}));
  backend->dispatch(other_ids.view(), offsets.view(), row_slot.view(), slot_row.view());  // the same memory, another plan
  product();
  EXPECT_EQ(get(y), (std::vector<float>{10, 20, 30}));
  backend->copy_in(std::span<const std::int32_t>(std::vector<std::int32_t>{0, 0, 3}), offsets.view());
  product();
  EXPECT_EQ(get(y), (std::vector<float>{100, 200, 300}));
}

TEST_F(cuda_behaviour, ids_out_of_range_are_thrown_by_the_next_wait_and_then_forgotten) {
  const auto table = put<float, 2>({1, 2, 3}, {3, 1});
  auto y = backend->make_tensor<float>(extents<2>{2, 1});
  for (const std::int32_t bad : {-1, 3}) {
    const auto tokens = put<std::int32_t, 1>({2, bad}, {2});
    backend->embedding(tokens.view(), table.view(), y.view());
    EXPECT_THROW(backend->synchronise(), contract_violation);
    EXPECT_NO_THROW(backend->synchronise());
  }
  const auto tokens = put<std::int32_t, 1>({2, 0}, {2});
  backend->embedding(tokens.view(), table.view(), y.view());
  EXPECT_EQ(get(y), (std::vector<float>{3, 1}));

  auto logits = put<float, 2>({0, 0}, {1, 2});
  const auto label = put<std::int32_t, 1>({2}, {1});
  EXPECT_THROW(static_cast<void>(backend->cross_entropy(logits.view(), label.view(), 1)), contract_violation);
  const auto ids = put<std::int32_t, 2>({0, 5}, {2, 1});
  auto offsets = backend->make_tensor<std::int32_t>(extents<1>{4});
  auto row_slot = backend->make_tensor<std::int32_t>(extents<1>{2});
  auto slot_row = backend->make_tensor<std::int32_t>(extents<2>{2, 1});
  backend->dispatch(ids.view(), offsets.view(), row_slot.view(), slot_row.view());
  EXPECT_THROW(backend->synchronise(), contract_violation);
}

TEST_F(cuda_behaviour, a_failed_allocation_or_launch_is_a_device_error_and_the_backend_lives_on) {
  auto x = put<float, 1>({3, 4}, {2});
  backend->inject_failure(cuda_operation::allocation);
  EXPECT_THROW(static_cast<void>(backend->make_tensor<float>(extents<1>{8})), device_error);
  EXPECT_NO_THROW(static_cast<void>(backend->make_tensor<float>(extents<1>{8})));
  backend->inject_failure(cuda_operation::launch, 1);
  EXPECT_NO_THROW(backend->fill(x.view(), 2.0F));
  EXPECT_THROW(backend->fill(x.view(), 1.0F), device_error);
  EXPECT_EQ(backend->sum_of_squares(std::as_const(x).view()), 8);
}

TEST_F(cuda_behaviour, work_is_timed_by_the_clock_of_the_device) {
  auto x = backend->make_tensor<float>(extents<1>{1 << 16});
  const std::int64_t before = backend->host_synchronisations();
  EXPECT_GT(backend->seconds([&] { backend->fill(x.view(), 1.0F); }), 0);
  EXPECT_EQ(backend->host_synchronisations(), before + 1);
}

TEST_F(cuda_behaviour, a_tensor_may_outlive_its_backend) {
  auto kept = put<float, 1>({1}, {1});
  backend.reset();
  kept = {};
  backend.emplace();
  EXPECT_EQ(get(put<float, 1>({5}, {1})), std::vector<float>{5});
}

TEST_F(cuda_behaviour, what_no_query_sees_may_hold_anything) {
  // Two sequences in one cache with unwritten rows between them, as decoding leaves it.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto k = put<float, 3>({1, nan, nan, 1, nan}, {5, 1, 1});
  const auto v = put<float, 3>({7, nan, nan, 9, nan}, {5, 1, 1});
  const auto q = put<float, 3>({1, 1}, {2, 1, 1});
  const auto begin = put<std::int32_t, 1>({0, 3}, {2});
  const auto end = put<std::int32_t, 1>({1, 4}, {2});
  auto o = backend->make_tensor<float>(extents<3>{2, 1, 1});
  auto lse = backend->make_tensor<float>(extents<2>{2, 1});
  backend->attention(q.view(), k.view(), v.view(), begin.view(), end.view(), 1, o.view(), lse.view());
  EXPECT_EQ(get(o), (std::vector<float>{7, 9}));
  EXPECT_EQ(get(lse), (std::vector<float>{1, 1}));
}

TEST_F(cuda_behaviour, special_numbers_of_logits_show_in_the_loss) {
  check_special_logits<cuda_backend<float>>();
  check_special_logits<cuda_backend<bf16>>();
}

TEST_F(cuda_behaviour, special_numbers_of_one_document_stay_there) {
  check_documents_stay_apart<cuda_backend<float>>(4);
  check_documents_stay_apart<cuda_backend<bf16>>(5);  // on tensor cores they spread among the documents of a tile
}

/// One query, one key; returns whether tensor cores computed it.
inline bool attention_ran_on_tensor_cores(index width) {
  cuda_backend<bf16> backend;
  auto x = backend.make_tensor<bf16>(extents<3>{3, 1, width});
  auto queries = backend.make_tensor<bf16>(extents<3>{3, 1, width});
  // A cache: rows 0 and 2 are written, row 1 holds anything. Query 1 sees nothing and may be anything.
  std::vector<float> rows(static_cast<std::size_t>(3 * width), 0.5F);
  std::fill_n(rows.begin() + width, width, std::numeric_limits<float>::quiet_NaN());
  backend.copy_in(std::span<const float>(rows), x.view());
  backend.copy_in(std::span<const float>(rows), queries.view());
  auto o = backend.make_tensor<bf16>(extents<3>{3, 1, width});
  auto lse = backend.make_tensor<float>(extents<2>{3, 1});
  auto begin = backend.make_tensor<std::int32_t>(extents<1>{3});
  auto end = backend.make_tensor<std::int32_t>(extents<1>{3});
  backend.copy_in(std::span<const std::int32_t>(std::vector<std::int32_t>{0, 1, 2}), begin.view());
  backend.copy_in(std::span<const std::int32_t>(std::vector<std::int32_t>{1, 1, 3}), end.view());
  const auto c = std::as_const(x).view();
  const auto q = std::as_const(queries).view();
  backend.attention(q, c, c, std::as_const(begin).view(), std::as_const(end).view(), 1, o.view(), lse.view());
  backend.copy_out(o.view(), std::span<float>(rows));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i], i / static_cast<std::size_t>(width) == 1 ? 0.0F : 0.5F) << "width " << width << " element " << i;
  }
  auto dq = backend.make_tensor<bf16>(x.shape());
  auto dk = backend.make_tensor<bf16>(x.shape());
  auto dv = backend.make_tensor<bf16>(x.shape());
  auto d_o = backend.make_tensor<bf16>(x.shape());
  std::vector<float> pulls(rows.size(), 1.0F);
  std::fill_n(pulls.begin() + width, width, std::numeric_limits<float>::quiet_NaN());
  backend.copy_in(std::span<const float>(pulls), d_o.view());
  backend.attention_backward(q, c, c, std::as_const(o).view(), std::as_const(lse).view(), std::as_const(d_o).view(),
                             std::as_const(begin).view(), std::as_const(end).view(), 1, dq.view(), dk.view(), dv.view());
  for (const auto* d : {&dq, &dk, &dv}) {
    backend.copy_out(d->view(), std::span<float>(rows));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float wanted = d == &dv && i / static_cast<std::size_t>(width) != 1 ? 1.0F : 0.0F;  // a softmax over one key has no gradient
      EXPECT_NEAR(rows[i], wanted, 0.02) << "width " << width << " element " << i;
    }
  }
  return backend.tensor_core_ops() == 2;
}
TEST_F(cuda_behaviour, bf16_heads_run_on_tensor_cores_where_their_width_allows_and_hide_what_nobody_sees) {
  for (const index width : {8, 64, 128, 192, 256}) EXPECT_TRUE(attention_ran_on_tensor_cores(width)) << width;
  for (const index width : {1, 65, 100}) EXPECT_FALSE(attention_ran_on_tensor_cores(width)) << width;
}

TEST_F(cuda_behaviour, heads_of_any_supported_width_and_no_wider) {
  for (const index width : {8, 65, 147, 256}) {  // 147: 49088 bytes of shared memory asked for, and a few declared
    const auto x = put<float, 3>(std::vector<float>(static_cast<std::size_t>(width), 0.5F), {1, 1, width});
    const auto zero = put<std::int32_t, 1>({0}, {1});
    const auto one = put<std::int32_t, 1>({1}, {1});
    auto o = backend->make_tensor<float>(extents<3>{1, 1, width});
    auto lse = backend->make_tensor<float>(extents<2>{1, 1});
    backend->attention(x.view(), x.view(), x.view(), zero.view(), one.view(), 1, o.view(), lse.view());
    EXPECT_EQ(get(o), std::vector<float>(static_cast<std::size_t>(width), 0.5F));
  }
  auto wide = backend->make_tensor<float>(extents<3>{1, 1, 257});
  auto lse = backend->make_tensor<float>(extents<2>{1, 1});
  const auto zero = put<std::int32_t, 1>({0}, {1});
  const auto c = std::as_const(wide).view();
  EXPECT_THROW(backend->attention(c, c, c, zero.view(), zero.view(), 1, wide.view(), lse.view()), contract_violation);
}

/// A layer of six experts, two of them trained, and one step through it: outputs, gradients of input and experts.
template <class T>
struct captured_layer {
  using B = cuda_backend<T>;
  static constexpr index tokens = 40, width = 32, inner = 16, experts = 6;
  B& backend;
  moe_parameters<B> p;
  softmax_topk_router router{2};
  tensor<T, 2, cuda_space> x = random(extents<2>{tokens, width}, 1);
  tensor<T, 2, cuda_space> dy = random(extents<2>{tokens, width}, 2);
  tensor<T, 2, cuda_space> y = backend.template make_tensor<T>(extents<2>{tokens, width});
  tensor<T, 2, cuda_space> dx = backend.template make_tensor<T>(extents<2>{tokens, width});

  explicit captured_layer(B& b) : backend(b) {
    p.router.value = random(extents<2>{experts, width}, 3);
    p.gate_up.value = random(extents<3>{experts, 2 * inner, width}, 4);
    p.down.value = random(extents<3>{experts, width, inner}, 5);
    p.gate_up.train(backend, std::vector<std::int32_t>{1, 4});
    p.down.train(backend, std::vector<std::int32_t>{1, 4});
  }
  template <std::size_t R>
  tensor<T, R, cuda_space> random(extents<R> shape, std::uint64_t seed) {
    auto t = backend.template make_tensor<T>(shape);
    const counter_rng rng(seed, rng_stream::test);
    std::vector<float> values(static_cast<std::size_t>(t.size()));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(rng.normal(i));
    backend.copy_in(std::span<const float>(values), t.view());
    return t;
  }
  void step() {
    backend.fill(y.view(), T(0.0F));
    backend.fill(p.gate_up.gradient_elements(), 0.0F);
    backend.fill(p.down.gradient_elements(), 0.0F);
    moe_saved<B> saved;
    moe_forward(backend, router, p, std::as_const(x).view(), y.view(), saved);
    auto to = dx.view();
    static_cast<void>(moe_backward(backend, router, p, std::as_const(dy).view(), std::as_const(x).view(), saved, &to));
  }
  std::vector<float> results() {
    std::vector<float> all;
    const auto read = [&](const auto& view) {
      std::vector<float> part(static_cast<std::size_t>(view.size()));
      backend.copy_out(view, std::span<float>(part));
      all.insert(all.end(), part.begin(), part.end());
    };
    read(y.view().flat());
    read(dx.view().flat());
    read(p.gate_up.gradient_elements().flat());
    read(p.down.gradient_elements().flat());
    return all;
  }
};
template <class T>
void check_capture() {
  cuda_backend<T> usual;
  captured_layer<T> wanted(usual);
  wanted.step();
  const std::vector<float> near = wanted.results();

  cuda_backend<T> backend({.grouped = cuda_grouped::device});
  captured_layer<T> layer(backend);
  const std::int64_t before = backend.host_synchronisations();
  layer.step();
  EXPECT_EQ(backend.host_synchronisations(), before);  // the step waits for nothing
  const std::vector<float> direct = layer.results();
  double largest = 0;
  for (const float value : near) largest = std::max(largest, std::abs(static_cast<double>(value)));
  ASSERT_EQ(direct.size(), near.size());
  for (std::size_t i = 0; i < near.size(); ++i) ASSERT_NEAR(direct[i], near[i], largest * (std::same_as<T, bf16> ? 0.02 : 1e-5)) << i;

  backend.fill(layer.y.view(), T(7.0F));
  const cuda_graph graph = backend.capture([&] { layer.step(); });
  EXPECT_EQ(layer.results()[0], 7);  // recorded, not run
  for (int run = 0; run < 2; ++run) {
    backend.replay(graph);
    EXPECT_EQ(layer.results(), direct) << "run " << run;
  }
  EXPECT_THROW(static_cast<void>(usual.capture([&] { wanted.step(); })), device_error);  // cuBLAS wants sizes on the host
  wanted.step();
  EXPECT_EQ(wanted.results(), near);
}
TEST_F(cuda_behaviour, a_captured_layer_replays_to_the_same_bits_and_nothing_waits) {
  check_capture<float>();
  check_capture<bf16>();
}
TEST_F(cuda_behaviour, what_cannot_be_recorded_is_refused_and_the_backend_lives_on) {
  tensor<float, 1, cuda_space> kept;
  EXPECT_THROW(static_cast<void>(backend->capture([&] { kept = backend->make_tensor<float>(extents<1>{4}); })), contract_violation);
  EXPECT_THROW(static_cast<void>(backend->capture([&] { backend->synchronise(); })), device_error);
  EXPECT_THROW(static_cast<void>(backend->capture([&] { static_cast<void>(put<float, 1>({1}, {1})); })), device_error);
  kept = put<float, 1>({3, 4}, {2});
  EXPECT_EQ(backend->sum_of_squares(std::as_const(kept).view()), 25);
}
TEST_F(cuda_behaviour, a_product_by_remembered_sizes_is_not_recorded) {
  const auto x = put<float, 2>({1, 2, 3}, {3, 1});
  const auto w = put<float, 3>({10, 100}, {2, 1, 1});
  const auto offsets = put<std::int32_t, 1>({0, 1, 3}, {3});
  auto y = put<float, 2>({0, 0, 0}, {3, 1});
  const auto product = [&] { backend->grouped_linear(x.view(), w.view(), offsets.view(), y.view()); };
  product();
  EXPECT_THROW(static_cast<void>(backend->capture(product)), device_error);  // replayed, it would have the sizes of today
  product();
  EXPECT_EQ(get(y), (std::vector<float>{10, 200, 300}));
}

}  // namespace esft::test
