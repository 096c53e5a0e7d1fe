// SPDX-License-Identifier: Apache-2.0
// Lesson 1. One token chooses 2 of 4 experts: by hand, then by the library, then backward.
#include <esft/backend/reference_backend.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

#include <array>
#include <cmath>
#include <cstdio>

namespace {
using backend_type = esft::reference_backend<double>;  // plain loops: the lesson and the oracle
using row = std::array<double, 4>;

bool close(const char* what, std::span<const double> is, std::span<const double> should_be) {
  bool same = is.size() == should_be.size();
  std::printf("%-22s", what);
  for (std::size_t i = 0; i < is.size(); ++i) {
    std::printf(" %9.6f", is[i]);
    same = same && std::abs(is[i] - should_be[i]) < 1e-6;
  }
  std::printf(same ? "\n" : "   <- wrong\n");
  return same;
}
}  // namespace

int main() {
  const row z = {2, 1, 0, -1};  // logits of one token: z = x Wr^T, T = 1, E = 4

  // s_e = exp(z_e) / sum_j exp(z_j): the affinity of the token to expert e
  row s{};
  double total = 0;
  for (std::size_t e = 0; e < 4; ++e) total += s[e] = std::exp(z[e]);
  for (double& value : s) value /= total;
  bool ok = close("s by hand", s, row{0.643914, 0.236883, 0.087144, 0.032059});

  // g_e = s_e for the K = 2 largest, 0 elsewhere; Mixtral and Qwen3-MoE divide by their sum
  ok &= close("g by hand", std::array{s[0], s[1]}, std::array{0.643914, 0.236883});
  ok &= close("g by hand, sum 1", std::array{s[0] / (s[0] + s[1]), s[1] / (s[0] + s[1])}, std::array{0.731059, 0.268941});

  backend_type backend;
  auto logits = backend.make_tensor<double>(esft::extents<2>{1, 4});  // [T, E]
  backend.copy_in(std::span<const double>(z), logits.view());
  const esft::softmax_topk_router router(2);
  const esft::routing<backend_type> decision = router.route(backend, std::as_const(logits).view());
  ok &= decision.ids.view()(0, 0) == 0 && decision.ids.view()(0, 1) == 1;  // falling affinity
  ok &= close("g by the library", std::span(decision.weights.data(), 2), std::array{0.643914, 0.236883});

  // Backward of a loss that grows with g_0 alone: dg = (1, 0).
  // dz_i = s_i (ds_i - sum_j s_j ds_j): raising one logit lowers all other affinities
  auto dweights = backend.make_tensor<double>(esft::extents<2>{1, 2});  // [T, K]
  backend.copy_in(std::span<const double>(std::array{1.0, 0.0}), dweights.view());
  auto dlogits = backend.make_tensor<double>(esft::extents<2>{1, 4});
  router.backward(backend, decision, std::as_const(dweights).view(), {}, dlogits.view());
  ok &= close("dz by the library", std::span(dlogits.data(), 4), row{0.229289, -0.152532, -0.056113, -0.020643});
  return ok ? 0 : 1;
}
