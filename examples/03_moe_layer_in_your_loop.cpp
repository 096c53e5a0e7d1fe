// SPDX-License-Identifier: Apache-2.0
// Lesson 3. One MoE layer in your own training loop: your data, your loss, your optimizer. Experts 1 and 3 of 4 are trained.
#include <esft/backend.hpp>
#include <esft/core/rng.hpp>
#include <esft/moe.hpp>

#include <algorithm>
#include <cstdio>

using backend_type = esft::reference_backend<float>;                     // any moe_backend will do
constexpr esft::index tokens = 64, width = 8, hidden = 16, experts = 4;  // T, D, I, E

template <class Weight>  // Your optimizer. The gradient has one slice per trained expert and none for the others.
void descend(Weight& w, float rate) {
  for (std::size_t s = 0; s < w.selected.size(); ++s) {
    const auto value = w.value.view()[w.selected[s]].flat();
    const auto gradient = w.gradient.view()[static_cast<esft::index>(s)].flat();
    for (esft::index i = 0; i < value.size(); ++i) value[i] -= rate * std::exchange(gradient[i], 0.0F);
  }
}

int main() {
  backend_type backend;
  const auto random = [&](auto shape, double deviation, std::uint64_t number) {
    auto tensor = backend.make_tensor<float>(shape);
    const esft::counter_rng rng(number, esft::rng_stream::initialisation);
    std::generate_n(tensor.data(), tensor.size(), [&, i = 0U]() mutable { return static_cast<float>(deviation * rng.normal(i++)); });
    return tensor;
  };
  esft::moe_parameters<backend_type> layer;  // plain tensors: fill them from wherever your weights are
  layer.router.value = random(esft::extents<2>{experts, width}, 1, 1);
  layer.gate_up.value = random(esft::extents<3>{experts, 2 * hidden, width}, 0.35, 2);
  layer.down.value = random(esft::extents<3>{experts, width, hidden}, 0.25, 3);
  layer.gate_up.train(backend, {1, 3});  // the rest is frozen: no gradient is allocated or computed for it
  layer.down.train(backend, {1, 3});
  const auto before = random(layer.down.value.shape(), 0.25, 3);  // the same numbers again

  const auto x = random(esft::extents<2>{tokens, width}, 1, 4), target = random(x.shape(), 1, 5);
  auto y = backend.make_tensor<float>(x.shape()), dy = backend.make_tensor<float>(x.shape());
  const esft::softmax_topk_router router(2, true);  // K = 2, gate weights sum to 1
  double first = 0, loss = 0;
  for (int step = 0; step < 300; ++step) {
    esft::moe_saved<backend_type> saved;  // all that the backward needs; there is no tape
    backend.fill(y.view(), 0);            // the layer adds to y: a residual stream needs no copy
    esft::moe_forward<backend_type>(backend, router, layer, x.view(), y.view(), saved);
    loss = 0;
    for (esft::index i = 0; i < y.size(); ++i) {  // your loss: half the mean squared error
      dy.data()[i] = (y.data()[i] - target.data()[i]) / static_cast<float>(y.size());
      loss += 0.5 * static_cast<double>(dy.data()[i] * dy.data()[i]) * static_cast<double>(y.size());
    }
    if (step == 0) first = loss;
    esft::moe_backward<backend_type>(backend, router, layer, std::as_const(dy).view(), x.view(), saved, nullptr);
    descend(layer.gate_up, 2), descend(layer.down, 2);
  }
  const auto unchanged = [&](esft::index e) {
    return std::equal(&before.view()(e, 0, 0), &before.view()(e, 0, 0) + width * hidden, &layer.down.value.view()(e, 0, 0));
  };
  std::printf("loss %.4f -> %.4f; unchanged: %d %d %d %d\n", first, loss, unchanged(0), unchanged(1), unchanged(2), unchanged(3));
  return loss < 0.5 * first && unchanged(0) && !unchanged(1) && unchanged(2) && !unchanged(3) ? 0 : 1;
}
