// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// One MoE layer with its input, run forward and backward on any backend.

#include "numeric.hpp"

#include <esft/moe/layer.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

#include <map>
#include <optional>

namespace esft_test {

/// Extents of a layer under test.
struct moe_shape {
  esft::index tokens = 9;
  esft::index width = 6;
  esft::index experts = 5;
  esft::index active = 2;
  esft::index expert_width = 4;
  esft::index shared_width = 3;  ///< 0: none
  bool normalise = false;
  double scale = 1;
  bool biased = false;  ///< routers and experts have biases
  double limit = 0;     ///< of a clamped activation
};

/// What a backward pass gave.
struct moe_result {
  std::vector<double> y, dx;
  std::map<std::string, std::vector<double>> gradient;  ///< of what is trained
  double balance_loss = 0;
};

/// A layer with random parameters, an input and an output gradient.
template <class Backend>
struct moe_case {
  using T = esft::value_t<Backend>;

  moe_case(Backend& backend, const moe_shape& how, std::uint64_t seed = 1)
      : b(backend), shape(how), choose(how.active, how.normalise, how.scale) {
    p.router.value = random_tensor<T>(b, esft::extents<2>{how.experts, how.width}, seed * 100, 1.2);
    p.gate_up.value = random_tensor<T>(b, esft::extents<3>{how.experts, 2 * how.expert_width, how.width}, seed * 100 + 1, 0.5);
    p.down.value = random_tensor<T>(b, esft::extents<3>{how.experts, how.width, how.expert_width}, seed * 100 + 2, 0.5);
    if (how.shared_width > 0) {
      p.shared.gate_up.value = random_tensor<T>(b, esft::extents<2>{2 * how.shared_width, how.width}, seed * 100 + 3, 0.5);
      p.shared.down.value = random_tensor<T>(b, esft::extents<2>{how.width, how.shared_width}, seed * 100 + 4, 0.5);
    }
    p.clamp.limit = how.limit;
    if (how.biased) {
      p.router_bias.value = random_tensor<T>(b, esft::extents<1>{how.experts}, seed * 100 + 7, 0.5);
      p.gate_up_bias.value = random_tensor<T>(b, esft::extents<3>{how.experts, 2 * how.expert_width, 1}, seed * 100 + 8, 0.5);
      p.down_bias.value = random_tensor<T>(b, esft::extents<3>{how.experts, how.width, 1}, seed * 100 + 9, 0.5);
    }
    x = random_tensor<T>(b, esft::extents<2>{how.tokens, how.width}, seed * 100 + 5);
    dy = random_tensor<T>(b, esft::extents<2>{how.tokens, how.width}, seed * 100 + 6);
  }

  void train_everything() {
    p.router.train(b);
    p.gate_up.train(b);
    p.down.train(b);
    if (p.shared.exists()) {
      p.shared.gate_up.train(b);
      p.shared.down.train(b);
    }
    if (!p.router_bias.exists()) return;
    p.router_bias.train(b);
    p.gate_up_bias.train(b);
    p.down_bias.train(b);
  }
  void train_experts(const std::vector<std::int32_t>& experts) {
    p.router.freeze();
    p.shared.gate_up.freeze();
    p.shared.down.freeze();
    p.gate_up.train(b, experts);
    p.down.train(b, experts);
    if (!p.router_bias.exists()) return;
    p.router_bias.freeze();
    p.gate_up_bias.train(b, experts);
    p.down_bias.train(b, experts);
  }

  std::vector<double> forward() {
    auto y = b.template make_tensor<T>(x.shape());
    b.fill(y.view(), T{});
    esft::moe_forward(b, choose, p, std::as_const(x).view(), y.view(), saved, forced ? &*forced : nullptr);
    return to_host(b, y);
  }
  moe_result run(bool with_input = true, const esft::balance_options<Backend>& balance = {}) {
    moe_result result;
    result.y = forward();
    auto dx = random_tensor<T>(b, x.shape(), 77);  // must be overwritten
    auto view = dx.view();
    result.balance_loss = esft::moe_backward(b, choose, p, std::as_const(dy).view(), std::as_const(x).view(), saved,
                                             with_input ? &view : nullptr, balance);
    if (with_input) result.dx = to_host(b, dx);
    const auto collect = [&](const char* name, const auto& w) {
      if (w.trained()) result.gradient[name] = to_host(b, w.gradient);
    };
    collect("router", p.router);
    collect("gate_up", p.gate_up);
    collect("down", p.down);
    collect("router_bias", p.router_bias);
    collect("gate_up_bias", p.gate_up_bias);
    collect("down_bias", p.down_bias);
    collect("shared.gate_up", p.shared.gate_up);
    collect("shared.down", p.shared.down);
    return result;
  }
  /// Forces these experts from now on. @shape ids, weights [T, K]
  void force(const std::vector<std::int32_t>& ids, const std::vector<float>& weights = {}) {
    forced.emplace(b, esft::layer_routes{static_cast<int>(shape.active), ids, weights}, esft::layer_index{3},
                   esft::extents<2>{shape.tokens, shape.active}, shape.experts);
  }
  std::vector<std::int32_t> ids() { return to_host<std::int32_t>(b, saved.decision.ids); }

  Backend& b;
  moe_shape shape;
  esft::softmax_topk_router choose;
  esft::moe_parameters<Backend> p;
  esft::tensor_t<Backend, T, 2> x, dy;
  esft::moe_saved<Backend> saved;
  std::optional<esft::placed_routes<Backend>> forced;
};

}  // namespace esft_test
