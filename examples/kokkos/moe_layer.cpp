// SPDX-License-Identifier: Apache-2.0
// An MoE layer inside a Kokkos program: your views hold the data, your kernels compute the loss, your instance orders the work; the layer
// is ours. Experts 1 and 3 of 4 are trained. Nothing is copied between your views and our tensors.
#include <esft/backends/kokkos.hpp>
#include <esft/core/rng.hpp>
#include <esft/moe.hpp>

#include <cstdio>

using execution = Kokkos::DefaultExecutionSpace;
using memory = execution::memory_space;
using matrix = Kokkos::View<float**, Kokkos::LayoutRight, memory>;
using stack = Kokkos::View<float***, Kokkos::LayoutRight, memory>;
using backend_type = esft::kokkos_backend<execution>;
constexpr int tokens = 64, width = 8, hidden = 16, experts = 4;  // T, D, I, E

struct squared_error {  // your kernel: dy = (y - target) / (T D), the sum of half its squares
  matrix y, target, dy;
  KOKKOS_FUNCTION void operator()(int t, double& sum) const {
    for (int d = 0; d < width; ++d) {
      dy(t, d) = (y(t, d) - target(t, d)) / static_cast<float>(tokens * width);
      sum += 0.5 * static_cast<double>(dy(t, d)) * static_cast<double>(dy(t, d)) * tokens * width;
    }
  }
};

struct descent {  // your optimizer on one slice
  float* weight;
  float* gradient;
  KOKKOS_FUNCTION void operator()(std::size_t i) const {
    weight[i] -= 2 * gradient[i];
    gradient[i] = 0;
  }
};

template <class View>  // your data, however you make it
View random_view(const char* name, double deviation, std::uint64_t number, View view) {
  const auto host = Kokkos::create_mirror_view(view);
  const esft::counter_rng rng(number, esft::rng_stream::initialisation);
  for (std::size_t i = 0; i < host.size(); ++i) host.data()[i] = static_cast<float>(deviation * rng.normal(i));
  Kokkos::deep_copy(view, host);
  std::printf("%s: %zu numbers\n", name, view.size());
  return view;
}

bool same(const stack& a, const stack& b, std::size_t expert) {
  const auto left = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), a);
  const auto right = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), b);
  for (std::size_t i = 0; i < a.extent(1) * a.extent(2); ++i) {
    if (left.data()[expert * a.extent(1) * a.extent(2) + i] != right.data()[expert * a.extent(1) * a.extent(2) + i]) return false;
  }
  return true;
}

int train() {
  const execution queue;  // the default one; an instance of your own (a stream) goes the same way
  backend_type backend(queue);
  const matrix x = random_view("x", 1, 4, matrix("x", tokens, width)),
               target = random_view("target", 1, 5, matrix("target", tokens, width));
  const matrix y("y", tokens, width), dy("dy", tokens, width);
  const stack down = random_view("down", 0.25, 3, stack("down", experts, width, hidden));
  const stack before("before", experts, width, hidden);
  Kokkos::deep_copy(before, down);

  esft::moe_parameters<backend_type> layer;  // its weights are your views: each shares the memory
  layer.router.value = esft::tensor_of_kokkos(random_view("router", 1, 1, matrix("router", experts, width)));
  layer.gate_up.value = esft::tensor_of_kokkos(random_view("gate_up", 0.35, 2, stack("gate_up", experts, 2 * hidden, width)));
  layer.down.value = esft::tensor_of_kokkos(down);
  layer.gate_up.train(backend, {1, 3});  // the rest is frozen: no gradient is allocated or computed for it
  layer.down.train(backend, {1, 3});
  const esft::softmax_topk_router router(2, true);

  const auto descend = [&](auto& weight) {  // one slice of the gradient per trained expert
    const auto value = esft::kokkos_view_of(weight.value.view());
    const auto gradient = esft::kokkos_view_of(weight.gradient.view());
    for (std::size_t s = 0; s < weight.selected.size(); ++s) {
      const auto e = static_cast<std::size_t>(weight.selected[s]);
      const std::size_t size = value.extent(1) * value.extent(2);
      Kokkos::parallel_for("descend", Kokkos::RangePolicy<execution>(queue, 0, size),
                           descent{value.data() + e * size, gradient.data() + s * size});
    }
  };
  double first = 0, loss = 0;
  for (int step = 0; step < 300; ++step) {
    esft::moe_saved<backend_type> saved;
    Kokkos::deep_copy(queue, y, 0.0F);  // the layer adds to y
    const auto input = esft::view_of_kokkos(Kokkos::View<const float**, Kokkos::LayoutRight, memory>(x));
    esft::moe_forward<backend_type>(backend, router, layer, input, esft::view_of_kokkos(y), saved);
    loss = 0;
    Kokkos::parallel_reduce("loss", Kokkos::RangePolicy<execution>(queue, 0, tokens), squared_error{y, target, dy}, loss);
    if (step == 0) first = loss;
    const auto slope = esft::view_of_kokkos(Kokkos::View<const float**, Kokkos::LayoutRight, memory>(dy));
    esft::moe_backward<backend_type>(backend, router, layer, slope, input, saved, nullptr);
    descend(layer.gate_up), descend(layer.down);
  }
  queue.fence();
  std::printf("%s: loss %.4f -> %.4f; unchanged: %d %d %d %d\n", backend.description().c_str(), first, loss, same(down, before, 0),
              same(down, before, 1), same(down, before, 2), same(down, before, 3));
  const bool right = same(down, before, 0) && !same(down, before, 1) && same(down, before, 2) && !same(down, before, 3);
  return loss < 0.5 * first && right ? 0 : 1;
}

int main(int argc, char** argv) {
  const Kokkos::ScopeGuard kokkos(argc, argv);  // before the first backend, and until after the last tensor
  return train();
}
