// SPDX-License-Identifier: Apache-2.0
// What a Kokkos program relies on: its views are our tensors and the reverse, its instances are taken, mistakes are named.
#include "../backends/ops.hpp"
#include "uninitialised.hpp"

#include <esft/backends/kokkos/attention.hpp>

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace esft::test {
namespace {

using backend_type = kokkos_backend<>;
using execution = Kokkos::DefaultExecutionSpace;
using memory = execution::memory_space;
using matrix = Kokkos::View<float**, Kokkos::LayoutRight, memory>;

TEST(kokkos_behaviour, a_backend_before_initialize_is_refused_and_says_what_to_call) {
  EXPECT_TRUE(refused_before_initialize);
  EXPECT_NO_THROW(backend_type());
}

TEST(kokkos_behaviour, its_views_are_our_tensors_without_a_copy) {
  matrix x("x", 3, 4);
  const auto ours = view_of_kokkos(x);
  static_assert(std::same_as<std::remove_const_t<decltype(ours)>, tensor_view<float, 2, backend_type::memory_space>>);
  EXPECT_EQ(ours.data(), x.data());
  EXPECT_EQ(ours.shape(), (extents<2>{3, 4}));
  const auto constant = view_of_kokkos(Kokkos::View<const float**, Kokkos::LayoutRight, memory>(x));
  static_assert(std::same_as<std::remove_const_t<decltype(constant)>, tensor_view<const float, 2, backend_type::memory_space>>);
  EXPECT_EQ(constant.data(), x.data());
  // rows of a wider matrix have gaps between them
  const auto left = Kokkos::subview(x, Kokkos::ALL, Kokkos::make_pair(0, 2));
  EXPECT_THROW(static_cast<void>(view_of_kokkos(matrix(left))), contract_violation);
  const auto top = Kokkos::subview(x, Kokkos::make_pair(1, 3), Kokkos::ALL);
  EXPECT_EQ(view_of_kokkos(matrix(top)).data(), x.data() + 4);
}

TEST(kokkos_behaviour, our_tensors_are_its_views_without_a_copy) {
  backend_type backend;
  auto y = backend.make_tensor<float>(extents<3>{2, 3, 4});
  backend.fill(y.view(), 2.0F);
  const auto theirs = kokkos_view_of(y.view());
  EXPECT_EQ(theirs.data(), y.data());
  EXPECT_EQ(theirs.extent(2), 4U);
  Kokkos::deep_copy(theirs, 5.0F);
  std::vector<float> values(24);
  backend.copy_out(std::as_const(y).view(), std::span<float>(values));
  EXPECT_EQ(values, std::vector<float>(24, 5.0F));
  const auto constant = kokkos_view_of(std::as_const(y).view());
  static_assert(std::is_const_v<decltype(constant)::value_type>);
}

TEST(kokkos_behaviour, an_owner_shares_the_view_and_lets_it_go) {
  matrix x("x", 2, 2);
  EXPECT_EQ(x.use_count(), 1);
  {
    auto owner = tensor_of_kokkos(x);
    EXPECT_EQ(owner.data(), x.data());
    EXPECT_EQ(x.use_count(), 2);
    const auto moved = std::move(owner);
    EXPECT_EQ(x.use_count(), 2);
  }
  EXPECT_EQ(x.use_count(), 1);
}

TEST(kokkos_behaviour, ops_run_on_views_and_on_an_instance_of_the_user) {
  const execution mine;
  backend_type backend(mine);
  matrix x("x", 5, 7), w("w", 3, 7), y("y", 5, 3);
  Kokkos::deep_copy(x, 2.0F);
  Kokkos::deep_copy(w, 0.5F);
  const auto in = [](const auto& given) { return view_of_kokkos(Kokkos::View<const float**, Kokkos::LayoutRight, memory>(given)); };
  backend.linear(in(x), in(w), view_of_kokkos(y), write_mode::overwrite);
  mine.fence();
  const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), y);
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t j = 0; j < 3; ++j) EXPECT_EQ(host(i, j), 7.0F);
  }
}

/// Memory of another space that kernels reach, as managed or pinned memory on a GPU: an anonymous view of the same memory stands for it.
TEST(kokkos_behaviour, views_of_other_memory_that_kernels_reach_are_taken) {
  backend_type backend;
  matrix x("x", 2, 3);
  Kokkos::deep_copy(x, 1.5F);
  using anonymous = Kokkos::View<float**, Kokkos::LayoutRight, Kokkos::Device<execution, Kokkos::AnonymousSpace>, Kokkos::MemoryUnmanaged>;
  const anonymous other(x.data(), 2, 3);
  const auto lent = view_of_kokkos_for<backend_type>(other);
  static_assert(std::same_as<std::remove_const_t<decltype(lent)>, tensor_view<float, 2, backend_type::memory_space>>);
  EXPECT_EQ(lent.data(), x.data());
  backend.fill(lent, 2.5F);
  backend.synchronise();
  EXPECT_EQ(Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), x)(1, 2), 2.5F);
  {
    const auto owner = tensor_of_kokkos_for<backend_type>(x);
    EXPECT_EQ(owner.data(), x.data());
    EXPECT_EQ(x.use_count(), 2);
  }
  EXPECT_EQ(x.use_count(), 1);
}

TEST(kokkos_behaviour, shapes_that_do_not_fit_are_refused) {
  backend_type backend;
  const auto m = [&](index rows, index width) {
    auto t = backend.make_tensor<float>(extents<2>{rows, width});
    backend.fill(t.view(), 1.0F);
    return t;
  };
  const auto in = [](const auto& t) { return std::as_const(t).view(); };
  const auto line = [&](index size) {
    auto t = backend.make_tensor<float>(extents<1>{size});
    backend.fill(t.view(), 1.0F);
    return t;
  };
  auto x = m(3, 4), y = m(3, 4), wide = m(3, 5), tall = m(4, 4);
  auto weight = line(4), rstd = line(3);
  const auto norm = [&](auto& to, auto& by) { backend.rms_norm(in(x), in(by), 1e-6, to.view(), rstd.view()); };
  EXPECT_NO_THROW(norm(y, weight));
  EXPECT_THROW(norm(wide, weight), contract_violation);
  EXPECT_THROW(norm(y, rstd), contract_violation);
  EXPECT_THROW(backend.add(in(weight), rstd.view()), contract_violation);
  EXPECT_NO_THROW(backend.add(in(weight), weight.view()));
  auto ids = backend.make_tensor<std::int32_t>(extents<1>{3});
  auto slots = backend.make_tensor<std::int32_t>(extents<2>{3, 1});
  backend.fill(ids.view(), 0);
  backend.fill(slots.view(), 0);
  EXPECT_NO_THROW(backend.gather(in(x), in(ids), 1, y.view()));
  EXPECT_THROW(backend.gather(in(x), in(ids), 1, wide.view()), contract_violation);
  EXPECT_THROW(backend.gather(in(x), in(ids), 1, tall.view()), contract_violation);
  EXPECT_THROW(backend.gather(in(x), in(ids), 0, y.view()), contract_violation);
  EXPECT_THROW(backend.combine(in(x), in(slots), in(x), y.view(), write_mode::overwrite), contract_violation);
  auto gates = m(3, 1);
  EXPECT_NO_THROW(backend.combine(in(x), in(slots), in(gates), y.view(), write_mode::overwrite));
  EXPECT_THROW(backend.embedding(in(ids), in(x), tall.view()), contract_violation);
  EXPECT_THROW(backend.adamw(weight.view(), rstd.view(), weight.view(), weight.view(), in(weight), {}), contract_violation);
}

/// As on the other backends: a group of heads is a number of heads to each head of keys, so there must be one.
TEST(kokkos_behaviour, heads_without_keys_are_refused) {
  backend_type backend;
  const auto attend = [&](index heads, index key_heads) {
    auto q = backend.make_tensor<float>(extents<3>{2, heads, 4}), o = backend.make_tensor<float>(extents<3>{2, heads, 4});
    auto k = backend.make_tensor<float>(extents<3>{2, key_heads, 4});
    auto lse = backend.make_tensor<float>(extents<2>{2, heads});
    auto begin = backend.make_tensor<std::int32_t>(extents<1>{2}), end = backend.make_tensor<std::int32_t>(extents<1>{2});
    backend.fill(q.view(), 1.0F);
    backend.fill(k.view(), 1.0F);
    backend.fill(begin.view(), 0);
    backend.fill(end.view(), 2);
    const auto keys = std::as_const(k).view();
    backend.attention(std::as_const(q).view(), keys, keys, std::as_const(begin).view(), std::as_const(end).view(), 0.5, o.view(),
                      lse.view());
    backend.synchronise();
  };
  EXPECT_NO_THROW(attend(4, 2));
  EXPECT_THROW(attend(4, 0), contract_violation);
  EXPECT_THROW(attend(4, 3), contract_violation);
}

/// Offsets come from wherever routing happened: what they say beyond the rows there are is not read.
TEST(kokkos_behaviour, offsets_beyond_the_rows_end_there) {
  backend_type backend;
  matrix x("x", 4, 3), dy("dy", 4, 2);
  Kokkos::deep_copy(x, 2.0F);
  Kokkos::deep_copy(dy, 1.0F);
  // rows 0..3 of a larger memory: what lies behind them must not be added
  const auto some = [](const matrix& given, index rows) {
    return tensor_view<const float, 2, backend_type::memory_space>(given.data(), {rows, static_cast<index>(given.extent(1))});
  };
  auto offsets = backend.make_tensor<std::int32_t>(extents<1>{3});
  auto dw = backend.make_tensor<float>(extents<3>{2, 2, 3});
  const std::vector<std::int32_t> selected{0, 1};
  const auto weight_gradient = [&](std::vector<std::int32_t> ends) {
    backend.copy_in(std::span<const std::int32_t>(ends), offsets.view());
    backend.fill(dw.view(), 0.0F);
    backend.grouped_linear_dw(some(dy, 3), some(x, 3), std::as_const(offsets).view(), selected, dw.view());
    std::vector<float> out(12);
    backend.copy_out(std::as_const(dw).view(), std::span<float>(out));
    return std::pair(out.front(), out.back());
  };
  EXPECT_EQ(weight_gradient({0, 1, 3}), std::pair(2.0F, 4.0F));
  EXPECT_EQ(weight_gradient({0, 1, 4}), std::pair(2.0F, 4.0F));
  EXPECT_EQ(weight_gradient({-1, 2, 9}), std::pair(4.0F, 2.0F));
  EXPECT_EQ(weight_gradient({0, 7, 9}), std::pair(6.0F, 0.0F));
}

TEST(kokkos_behaviour, ids_out_of_range_are_thrown_and_the_backend_goes_on) {
  backend_type backend;
  const auto ids_of = [&](std::vector<std::int32_t> values) {
    auto t = backend.make_tensor<std::int32_t>(extents<1>{static_cast<index>(values.size())});
    backend.copy_in(std::span<const std::int32_t>(values), t.view());
    return t;
  };
  auto table = backend.make_tensor<float>(extents<2>{5, 4});
  backend.fill(table.view(), 1.0F);
  auto y = backend.make_tensor<float>(extents<2>{2, 4});
  const auto embed = [&](std::int32_t id) {
    const auto ids = ids_of({0, id});
    backend.embedding(ids.view(), std::as_const(table).view(), y.view());
    backend.synchronise();
  };
  for (const std::int32_t bad : {-1, 5}) {
    EXPECT_THROW(embed(bad), contract_violation);
    EXPECT_NO_THROW(embed(4));
  }
  auto logits = backend.make_tensor<float>(extents<2>{1, 20});
  backend.fill(logits.view(), 0.5F);
  EXPECT_NEAR(backend.cross_entropy(logits.view(), ids_of({3}).view(), 1), std::log(20.0), 1e-6);
  EXPECT_THROW(static_cast<void>(backend.cross_entropy(logits.view(), ids_of({20}).view(), 1)), contract_violation);
  const auto route = [&](std::int32_t id) {
    auto offsets = backend.make_tensor<std::int32_t>(extents<1>{4});
    auto rows = backend.make_tensor<std::int32_t>(extents<1>{2});
    auto slots = backend.make_tensor<std::int32_t>(extents<2>{1, 2});
    const auto ids = ids_of({2, id});
    backend.dispatch(ids.view().reshape(extents<2>{1, 2}), offsets.view(), rows.view(), slots.view());
    backend.synchronise();
  };
  EXPECT_THROW(route(3), contract_violation);
  EXPECT_NO_THROW(route(no_expert));
}

TEST(kokkos_behaviour, a_list_of_pieces_is_updated_as_its_pieces_are) {
  backend_type backend;
  generator g(3);
  const index sizes_of_pieces[] = {1, 20000, 0, 8192, 7};
  std::vector<update_slice<backend_type>> slices;
  std::vector<tensor_t<backend_type, float, 1>> values, gradients, apart;
  index all = 0;
  const auto load = [&](index count, bool positive = false) {
    numbers n = g({count});
    std::vector<float> host(n.values.begin(), n.values.end());
    if (positive) std::transform(host.begin(), host.end(), host.begin(), [](float x) { return x * x; });
    auto t = backend.make_tensor<float>(extents<1>{count});
    backend.copy_in(std::span<const float>(host), t.view());
    return t;
  };
  const auto copy_of = [&](auto& t) {
    auto other = backend.make_tensor<float>(t.shape());
    backend.copy(std::as_const(t).view(), other.view());
    return other;
  };
  for (const index count : sizes_of_pieces) {
    values.push_back(load(count));
    gradients.push_back(load(count));
    apart.push_back(copy_of(values.back()));
    all += count;
  }
  for (std::size_t i = 0; i < values.size(); ++i) slices.push_back({values[i].view(), gradients[i].view(), i != 1});
  auto master = load(all), m = load(all), v = load(all, true);
  auto master2 = copy_of(master), m2 = copy_of(m), v2 = copy_of(v);
  adamw_step step{.learning_rate = 0.01, .weight_decay = 0.1, .step = 4, .gradient_scale = 0.5};
  const auto list = backend.make_update_list(slices);
  EXPECT_EQ(list.elements, all);
  double squares = 0;
  index at = 0;
  for (std::size_t i = 0; i < apart.size(); ++i) {
    step.weight_decay = i != 1 ? 0.1 : 0;
    const auto part = [&](auto& t) { return t.view().slice(at, at + apart[i].size()); };
    backend.adamw(apart[i].view(), part(master2), part(m2), part(v2), std::as_const(gradients[i]).view(), step);
    squares += backend.sum_of_squares(std::as_const(gradients[i]).view());
    at += apart[i].size();
  }
  step.weight_decay = 0.1;
  EXPECT_NEAR(backend.sum_of_squares(list), squares, 1e-9 * squares);
  backend.adamw(list, master.view(), m.view(), v.view(), step);
  const auto host_of = [&](const auto& t) {
    std::vector<float> host(static_cast<std::size_t>(t.size()));
    backend.copy_out(t.view(), std::span<float>(host));
    return host;
  };
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(host_of(values[i]), host_of(apart[i])) << i;
  EXPECT_EQ(host_of(master), host_of(master2));
  EXPECT_EQ(host_of(m), host_of(m2));
  EXPECT_EQ(host_of(v), host_of(v2));
  backend.clear_gradients(list);
  EXPECT_EQ(backend.sum_of_squares(list), 0);
}

TEST(kokkos_behaviour, the_exponential_of_the_kernels_is_within_two_units) {
  double worst = 0;
  for (double x = -87.2; x < 88.7; x += 0.00317) {
    const auto at = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(at));
    worst = std::max(worst, std::abs(static_cast<double>(detail::kokkos::exponential(at)) / exact - 1));
  }
  EXPECT_LE(worst, 2 * 0x1.0p-23);
  constexpr float infinite = std::numeric_limits<float>::infinity();
  EXPECT_EQ(detail::kokkos::exponential(0.0F), 1.0F);
  EXPECT_EQ(detail::kokkos::exponential(-infinite), 0.0F);
  EXPECT_EQ(detail::kokkos::exponential(-90.0F), 0.0F);
  EXPECT_EQ(detail::kokkos::exponential(89.0F), infinite);
  EXPECT_EQ(detail::kokkos::exponential(infinite), infinite);
  EXPECT_TRUE(std::isnan(detail::kokkos::exponential(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace esft::test
