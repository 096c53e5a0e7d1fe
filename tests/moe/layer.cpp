// SPDX-License-Identifier: Apache-2.0
// Laws of the MoE layer on every backend: partial training, idle and crowded experts, renamed experts.
#include "backend_list.hpp"
#include "moe_case.hpp"

#include <numeric>
#include <tuple>

namespace moe_layer_tests {

using esft::extents;
using esft_test::expect_close;
using esft_test::moe_case;
using esft_test::moe_shape;

template <class Backend>
class moe_layer : public ::testing::Test {};
TYPED_TEST_SUITE(moe_layer, esft_test::backends, esft_test::backend_names);

/// Elements of expert `e` in a gradient or value over `experts` slices.
std::vector<double> slice(const std::vector<double>& all, std::size_t experts, std::size_t e) {
  const auto size = static_cast<std::ptrdiff_t>(all.size() / experts);
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(e) * size;
  return {begin, begin + size};
}
bool exactly_zero(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return value == 0; });
}
template <class Backend>
double tolerance() {
  return std::is_same_v<esft::value_t<Backend>, double> ? 1e-13 : 2e-6;  // sums of a few dozen products in another order
}

TYPED_TEST(moe_layer, selected_experts_get_the_slices_of_the_full_gradient) {
  TypeParam backend;
  for (const bool biased : {false, true}) {
    moe_case<TypeParam> layer(backend, {.biased = biased, .limit = biased ? 0.5 : 0});
    layer.train_everything();
    const auto full = layer.run();
    for (const std::vector<std::int32_t>& selected : {std::vector<std::int32_t>{3}, {0, 4}, {1, 2, 3}, {0, 1, 2, 3, 4}}) {
      for (const bool with_input : {true, false}) {
        layer.train_experts(selected);
        const auto part = layer.run(with_input);
        EXPECT_EQ(part.y, full.y);
        if (with_input) {
          EXPECT_EQ(part.dx, full.dx) << "a frozen router still passes its gradient on";
        }
        EXPECT_EQ(part.gradient.size(), biased ? 4U : 2U);
        for (const auto& [name, gradient] : part.gradient) {
          for (std::size_t s = 0; s < selected.size(); ++s) {
            const auto e = static_cast<std::size_t>(selected[s]);
            EXPECT_EQ(slice(gradient, selected.size(), s), slice(full.gradient.at(name), 5, e)) << name << ", expert " << e;
          }
        }
      }
    }
  }
}

/// Counts the rows of what goes back through products and activations of experts.
struct counting_backend : esft::reference_backend<double> {
  esft::index product_rows = 0;
  esft::index activation_rows = 0;

  void linear_dx(view<const double, 2> dy, view<const double, 2> w, view<double, 2> dx, esft::write_mode mode) {
    product_rows += dy.extent(0);
    reference_backend::linear_dx(dy, w, dx, mode);
  }
  void grouped_linear_dx(view<const double, 2> dy, view<const double, 3> w, ids offsets, view<double, 2> dx) {
    product_rows += offsets[offsets.size() - 1];
    reference_backend::grouped_linear_dx(dy, w, offsets, dx);
  }
  void weighted_swiglu_backward(view<const double, 2> gate_up, view<const double, 2> dh, view<const double, 2> weights, ids row_slot,
                                view<double, 2> dgate_up, view<double, 2> weighted_h, view<double, 2> dweights) {
    activation_rows += dh.extent(0);
    reference_backend::weighted_swiglu_backward(gate_up, dh, weights, row_slot, dgate_up, weighted_h, dweights);
  }
};

TEST(moe_layer_cost, the_lowest_trained_layer_goes_back_through_rows_of_its_trained_experts_alone) {
  counting_backend backend;
  moe_case<counting_backend> layer(backend, {.shared_width = 0});
  layer.train_experts({1, 3});
  const auto rows = [&](bool with_input) {
    backend.product_rows = backend.activation_rows = 0;
    layer.run(with_input);
    return std::pair(backend.product_rows, backend.activation_rows);
  };
  const auto everything = rows(true);
  const auto alone = rows(false);
  const std::vector<std::int32_t> ids = layer.ids();
  const esft::index routed = std::count(ids.begin(), ids.end(), 1) + std::count(ids.begin(), ids.end(), 3);
  ASSERT_GT(routed, 0);
  ASSERT_LT(routed, 18);
  EXPECT_EQ(everything, std::pair(esft::index{36}, esft::index{18})) << "both products of all nine tokens' two experts";
  EXPECT_EQ(alone, std::pair(routed, routed)) << "down's product, for dgate_up";
}

TYPED_TEST(moe_layer, gate_and_down_are_independent) {
  TypeParam backend;
  moe_case<TypeParam> layer(backend, {});
  layer.train_everything();
  const auto full = layer.run();
  layer.train_experts({});
  layer.p.down.train(backend);
  const auto down = layer.run(false);
  EXPECT_EQ(down.gradient.size(), 1U);
  EXPECT_EQ(down.gradient.at("down"), full.gradient.at("down"));
  layer.train_experts({});
  layer.p.router.train(backend);
  const auto router = layer.run(false);
  EXPECT_EQ(router.gradient.size(), 1U);
  EXPECT_EQ(router.gradient.at("router"), full.gradient.at("router"));
  layer.train_experts({});
  layer.p.shared.down.train(backend);
  const auto shared = layer.run(false);
  EXPECT_EQ(shared.gradient.size(), 1U);
  EXPECT_EQ(shared.gradient.at("shared.down"), full.gradient.at("shared.down"));
}

TYPED_TEST(moe_layer, experts_without_tokens_get_exactly_zero) {
  TypeParam backend;
  moe_case<TypeParam> layer(backend, {3, 6, 17, 2, 3, 0, false, 1});
  layer.train_everything();
  const auto result = layer.run();
  std::vector<bool> used(17);
  for (const std::int32_t e : layer.ids()) used[static_cast<std::size_t>(e)] = true;
  for (std::size_t e = 0; e < 17; ++e) {
    EXPECT_EQ(exactly_zero(slice(result.gradient.at("gate_up"), 17, e)), !used[e]) << e;
    EXPECT_EQ(exactly_zero(slice(result.gradient.at("down"), 17, e)), !used[e]) << e;
  }
}

/// The softmax router with some slots silenced: empty, or served with weight 0, which must make no difference but the rows.
struct silencing_router {
  esft::softmax_topk_router inner;
  bool empty;

  [[nodiscard]] esft::index active() const { return inner.active(); }
  static bool silent(esft::index t, esft::index k) { return (t + k) % 3 == 0 || t == 2; }
  template <esft::backend Backend>
  [[nodiscard]] esft::routing<Backend> route(Backend& backend, esft::view_t<Backend, const esft::accum_t<Backend>, 2> logits) const {
    auto decision = inner.route(backend, logits);
    for (esft::index t = 0; t < logits.extent(0); ++t) {
      for (esft::index k = 0; k < active(); ++k) {
        if (!silent(t, k)) continue;
        decision.weights.view()(t, k) = 0;
        if (empty) decision.ids.view()(t, k) = esft::no_expert;
      }
    }
    return decision;
  }
  template <esft::backend Backend>
  void backward(Backend& backend, const esft::routing<Backend>& decision, esft::view_t<Backend, const esft::accum_t<Backend>, 2> dweights,
                esft::view_t<Backend, const esft::accum_t<Backend>, 2> dprobabilities,
                esft::view_t<Backend, esft::accum_t<Backend>, 2> dlogits) const {
    auto heard = backend.template make_tensor<esft::accum_t<Backend>>(dweights.shape());
    for (esft::index t = 0; t < dweights.extent(0); ++t) {
      for (esft::index k = 0; k < active(); ++k) heard.view()(t, k) = silent(t, k) ? esft::accum_t<Backend>{} : dweights(t, k);
    }
    inner.backward(backend, decision, std::as_const(heard).view(), dprobabilities, dlogits);
  }
};

TYPED_TEST(moe_layer, empty_slots_are_slots_of_weight_zero_without_rows) {
  TypeParam backend;
  const auto run = [&](bool empty) {
    moe_case<TypeParam> layer(backend, {});
    layer.train_everything();
    const silencing_router choose{layer.choose, empty};
    auto y = backend.template make_tensor<esft::value_t<TypeParam>>(layer.x.shape());
    backend.fill(y.view(), {});
    esft::moe_saved<TypeParam> saved;
    esft::moe_forward(backend, choose, layer.p, std::as_const(layer.x).view(), y.view(), saved);
    auto dx = backend.template make_tensor<esft::value_t<TypeParam>>(layer.x.shape());
    auto view = dx.view();
    esft::moe_backward(backend, choose, layer.p, std::as_const(layer.dy).view(), std::as_const(layer.x).view(), saved, &view);
    const auto offsets = esft_test::to_host<std::int32_t>(backend, saved.plan.offsets);
    return std::tuple(offsets.back(), std::vector{esft_test::to_host(backend, y), esft_test::to_host(backend, dx),
                                                  esft_test::to_host(backend, layer.p.router.gradient),
                                                  esft_test::to_host(backend, layer.p.gate_up.gradient),
                                                  esft_test::to_host(backend, layer.p.down.gradient)});
  };
  const auto [all_rows, weighted] = run(false);
  const auto [rows, empty] = run(true);
  EXPECT_EQ(all_rows, 18);
  EXPECT_EQ(rows, 11);  // 9 tokens: token 2 is silent in both slots, six others in one, but for token 2 itself
  ASSERT_EQ(empty.size(), weighted.size());
  for (std::size_t i = 0; i < empty.size(); ++i) expect_close(empty[i], weighted[i], tolerance<TypeParam>(), "result " + std::to_string(i));
}

TYPED_TEST(moe_layer, all_tokens_on_one_expert) {
  TypeParam backend;
  const moe_shape shape{40, 6, 5, 1, 4, 0, false, 1};
  moe_case<TypeParam> layer(backend, shape);
  auto router = std::vector<double>(30, 0.0);
  for (std::size_t d = 0; d < 6; ++d) router[3 * 6 + d] = 8;  // expert 3 wins wherever the inputs add up to more than 0
  layer.p.router.value = esft_test::make<esft::value_t<TypeParam>>(backend, extents<2>{5, 6}, router);
  auto x = esft_test::normal_numbers(240, 5);
  for (double& value : x) value = std::abs(value);
  layer.x = esft_test::make<esft::value_t<TypeParam>>(backend, extents<2>{40, 6}, x);
  layer.train_everything();
  const auto result = layer.run();
  EXPECT_EQ(layer.ids(), std::vector<std::int32_t>(40, 3));
  // The same tokens through a layer that has only this expert: the gate is 1 there, within rounding of what it is here.
  moe_case<TypeParam> alone(backend, {40, 6, 1, 1, 4, 0, true, 1});
  const auto gate_up = slice(esft_test::to_host(backend, layer.p.gate_up.value), 5, 3);
  const auto down = slice(esft_test::to_host(backend, layer.p.down.value), 5, 3);
  alone.p.gate_up.value = esft_test::make<esft::value_t<TypeParam>>(backend, extents<3>{1, 8, 6}, gate_up);
  alone.p.down.value = esft_test::make<esft::value_t<TypeParam>>(backend, extents<3>{1, 6, 4}, down);
  backend.copy(std::as_const(layer.x).view(), alone.x.view());
  backend.copy(std::as_const(layer.dy).view(), alone.dy.view());
  alone.train_everything();
  const auto wanted = alone.run();
  expect_close(result.y, wanted.y, 1e-3, "y");
  for (std::size_t e = 0; e < 5; ++e) {
    if (e == 3) {
      expect_close(slice(result.gradient.at("gate_up"), 5, e), wanted.gradient.at("gate_up"), 1e-3, "gate_up");
      expect_close(slice(result.gradient.at("down"), 5, e), wanted.gradient.at("down"), 1e-3, "down");
    } else {
      EXPECT_TRUE(exactly_zero(slice(result.gradient.at("gate_up"), 5, e)));
      EXPECT_TRUE(exactly_zero(slice(result.gradient.at("down"), 5, e)));
    }
  }
}

TYPED_TEST(moe_layer, equals_its_experts_computed_one_by_one) {
  TypeParam backend;
  for (const moe_shape& shape : {moe_shape{}, moe_shape{1, 6, 5, 2, 4, 3, true, 1}, moe_shape{70, 6, 3, 3, 4, 0, false, 2}}) {
    moe_case<TypeParam> layer(backend, shape);
    const auto y = layer.forward();
    const auto ids = layer.ids();
    const auto weights = esft_test::to_host(backend, layer.saved.decision.weights);
    const auto x = esft_test::to_host(backend, layer.x);
    const auto swiglu = [&](const std::vector<double>& gate_up, const std::vector<double>& down, const double* token, std::size_t inner) {
      std::vector<double> out(6);
      for (std::size_t i = 0; i < inner; ++i) {
        double gate = 0;
        double up = 0;
        for (std::size_t d = 0; d < 6; ++d) {
          gate += gate_up[i * 6 + d] * token[d];
          up += gate_up[(inner + i) * 6 + d] * token[d];
        }
        for (std::size_t d = 0; d < 6; ++d) out[d] += down[d * inner + i] * gate / (1 + std::exp(-gate)) * up;
      }
      return out;
    };
    const auto experts = static_cast<std::size_t>(shape.experts);
    std::vector<double> wanted(y.size());
    for (std::size_t slot = 0; slot < ids.size(); ++slot) {
      const std::size_t t = slot / static_cast<std::size_t>(shape.active);
      const auto e = static_cast<std::size_t>(ids[slot]);
      const auto out = swiglu(slice(esft_test::to_host(backend, layer.p.gate_up.value), experts, e),
                              slice(esft_test::to_host(backend, layer.p.down.value), experts, e), &x[t * 6], 4);
      for (std::size_t d = 0; d < 6; ++d) wanted[t * 6 + d] += weights[slot] * out[d];
    }
    for (std::size_t t = 0; t < static_cast<std::size_t>(shape.tokens) && shape.shared_width > 0; ++t) {
      const auto out = swiglu(esft_test::to_host(backend, layer.p.shared.gate_up.value),
                              esft_test::to_host(backend, layer.p.shared.down.value), &x[t * 6], 3);
      for (std::size_t d = 0; d < 6; ++d) wanted[t * 6 + d] += out[d];
    }
    expect_close(y, wanted, tolerance<TypeParam>(), "y");
  }
}

TYPED_TEST(moe_layer, adds_to_its_output) {
  TypeParam backend;
  moe_case<TypeParam> layer(backend, {});
  auto y = layer.forward();
  auto sum = backend.template make_tensor<esft::value_t<TypeParam>>(layer.x.shape());
  backend.fill(sum.view(), esft::value_t<TypeParam>{1});
  esft::moe_forward(backend, layer.choose, layer.p, std::as_const(layer.x).view(), sum.view(), layer.saved);
  for (double& value : y) value += 1;
  expect_close(esft_test::to_host(backend, sum), y, tolerance<TypeParam>(), "1 + y");
}

TYPED_TEST(moe_layer, renaming_experts_with_their_router_rows_renames_the_result) {
  TypeParam backend;
  const std::vector<std::size_t> new_name{3, 0, 4, 1, 2};
  moe_case<TypeParam> layer(backend, {});
  layer.train_everything();
  const auto before = layer.run();
  const auto ids_before = layer.ids();
  const auto rename = [&](const std::vector<double>& values) {
    std::vector<double> renamed(values.size());
    for (std::size_t e = 0; e < 5; ++e) {
      const auto part = slice(values, 5, e);
      std::copy(part.begin(), part.end(), renamed.begin() + static_cast<std::ptrdiff_t>(new_name[e] * part.size()));
    }
    return renamed;
  };
  const auto rename_weight = [&](auto& w) {
    w.value = esft_test::make<esft::value_t<TypeParam>>(backend, w.value.shape(), rename(esft_test::to_host(backend, w.value)));
  };
  rename_weight(layer.p.router);
  rename_weight(layer.p.gate_up);
  rename_weight(layer.p.down);
  layer.train_everything();
  const auto after = layer.run();
  const auto ids_after = layer.ids();
  for (std::size_t slot = 0; slot < ids_before.size(); ++slot) {
    EXPECT_EQ(static_cast<std::size_t>(ids_after[slot]), new_name[static_cast<std::size_t>(ids_before[slot])]);
  }
  const double bound = tolerance<TypeParam>();  // the softmax adds its terms in another order
  expect_close(after.y, before.y, bound, "y");
  expect_close(after.dx, before.dx, bound, "dx");
  for (const char* name : {"router", "gate_up", "down"}) {
    expect_close(after.gradient.at(name), rename(before.gradient.at(name)), bound, name);
  }
}

TYPED_TEST(moe_layer, no_tokens_are_legal) {
  TypeParam backend;
  moe_case<TypeParam> layer(backend, {0, 6, 5, 2, 4, 3, false, 1});
  layer.train_everything();
  const auto result = layer.run();
  EXPECT_TRUE(result.y.empty());
  EXPECT_TRUE(result.dx.empty());
  for (const auto& [name, gradient] : result.gradient) EXPECT_TRUE(exactly_zero(gradient)) << name;
  EXPECT_EQ(result.gradient.size(), 5U);
}

}  // namespace moe_layer_tests
