// SPDX-License-Identifier: Apache-2.0
// Lesson 5. Your own backend: a kernel of your own, and a meter that shows what training fewer experts saves.
#include <esft/backend.hpp>
#include <esft/moe.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

/// Inherits the plain loops and replaces what it does better. A backend for other memory inherits nothing.
struct my_backend : esft::reference_backend<float> {
  static constexpr std::string_view name = "mine";
  using matrix = view<const float, 2>;
  esft::index flops = 0;  // of the experts' matrix products
  /// y[r] = x[r] w[e(r)]^T, rows of expert e are [offsets[e], offsets[e+1]). A row of w is read once for all its tokens.
  void grouped_linear(matrix x, view<const float, 3> w, ids offsets, view<float, 2> y) {
    for (esft::index e = 0; e < w.extent(0); ++e) {
      for (esft::index n = 0; n < w.extent(1); ++n) {
        for (esft::index r = offsets[e]; r < offsets[e + 1]; ++r) {
          y(r, n) = std::inner_product(&x(r, 0), &x(r, 0) + x.extent(1), &w(e, n, 0), 0.0F);
        }
      }
    }
    flops += 2 * y.size() * x.extent(1);
  }
  void grouped_linear_dx(matrix dy, view<const float, 3> w, ids offsets, view<float, 2> dx) {
    reference_backend::grouped_linear_dx(dy, w, offsets, dx);
    flops += 2 * dy.size() * dx.extent(1);
  }
  void grouped_linear_dw(matrix dy, matrix x, ids offsets, std::span<const std::int32_t> trained, view<float, 3> dw) {
    reference_backend::grouped_linear_dw(dy, x, offsets, trained, dw);
    for (const std::int32_t e : trained) flops += 2 * (offsets[e + 1] - offsets[e]) * dw.extent(1) * dw.extent(2);
  }
};
static_assert(esft::moe_backend<my_backend>);  // forget an op and the compiler says which

/// One layer forward and backward: T = 96, D = 16, I = 8, E = 8, K = 2. Returns y and dx.
template <esft::moe_backend Backend>
auto run(Backend& backend, const std::vector<std::int32_t>& trained) {
  const auto wave = [&](auto shape, float phase) {
    auto made = backend.template make_tensor<float>(shape);
    std::generate_n(made.data(), made.size(), [&] { return 0.5F * std::sin(phase += 1.7F); });
    return made;
  };
  esft::moe_parameters<Backend> layer;
  layer.router.value = wave(esft::extents<2>{8, 16}, 1);
  layer.gate_up.value = wave(esft::extents<3>{8, 16, 16}, 2);
  layer.down.value = wave(esft::extents<3>{8, 16, 8}, 3);
  layer.gate_up.train(backend, trained);
  layer.down.train(backend, trained);
  const auto x = wave(esft::extents<2>{96, 16}, 4);
  const auto dy = wave(x.shape(), 5);
  auto out = wave(esft::extents<3>{2, 96, 16}, 6);
  auto y = out.view()[0];
  auto dx = out.view()[1];
  esft::moe_saved<Backend> saved;
  esft::moe_forward<Backend>(backend, esft::softmax_topk_router(2), layer, x.view(), y, saved);
  esft::moe_backward<Backend>(backend, esft::softmax_topk_router(2), layer, dy.view(), x.view(), saved, &dx);
  return std::vector<float>(out.data(), out.data() + out.size());
}

int main() {
  my_backend all;
  my_backend two;
  my_backend::reference_backend oracle;
  const auto y = run(all, {0, 1, 2, 3, 4, 5, 6, 7});
  const auto fewer = run(two, {2, 5});
  const auto expected = run(oracle, {2, 5});
  const bool parity = std::equal(y.begin(), y.end(), expected.begin(), [](float a, float b) { return std::abs(a - b) < 1e-5F; });
  const esft::index unit = 6 * 96 * 2 * 16 * 8;  // 6 R D I: the experts' forward, R = T K rows
  const esft::index percent = 100 * two.flops / all.flops;
  std::printf("work with 2 of 8 experts trained: %d %% of training all; agrees with the oracle: %d\n", static_cast<int>(percent), parity);
  return parity && fewer == y && all.flops == 3 * unit && two.flops < all.flops && two.flops > 2 * unit ? 0 : 1;
}
