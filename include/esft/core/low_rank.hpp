// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `low_rank_options`: how a frozen matrix is adapted by two small ones, and the merge of the three.

#include <esft/core/contract.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

namespace esft {

/// y = x W^T + s (drop(x) A^T) B^T with W [N, K] frozen, A [r, K] random and B [N, r] zero at the start.
/// @source LoRA, arXiv 2106.09685, section 4.1; rank-stabilised scale: arXiv 2312.03732
struct low_rank_options {
  std::int64_t rank = 8;         ///< r
  double alpha = 16;
  bool rank_stabilised = false;  ///< s = alpha / sqrt(r) instead of alpha / r
  double dropout = 0;            ///< share of the elements of x that A does not see in training
  std::uint64_t seed = 0;        ///< of A and of the dropout

  [[nodiscard]] double scale() const noexcept {
    const auto r = static_cast<double>(rank);
    return alpha / (rank_stabilised ? std::sqrt(r) : r);
  }
  friend bool operator==(const low_rank_options&, const low_rank_options&) = default;
};

/// How many pairs of factors stand beside one matrix, and how many of them a token uses: low-rank experts with a router of their own.
/// @eq y = x W^T + s sum over the chosen e of g_e (x A_e^T) B_e^T; the g_e add up to 1 where more than one is active (MoLA), and are the
/// softmax's own where one is (Switch), because a lone gate of 1 would teach its router nothing
/// @source MoLA, arXiv 2402.08562; HiLo, arXiv 2502.03884; null experts: AdaMoE, arXiv 2406.13233
struct low_rank_mixture_options {
  int experts = 1;       ///< N
  int active = 1;        ///< k, null experts counted
  int null_experts = 0;  ///< M: further choices that add nothing and cost nothing
  double balance = 0;    ///< coefficient of the balance loss of this router; not part of what an adapter needs

  /// Whether there is anything to choose. One pair alone is LoRA and has no router, with null experts beside it or not: its gate would be 1
  /// wherever it is chosen, and teach a router nothing.
  [[nodiscard]] constexpr bool routed() const noexcept { return experts > 1; }
  friend bool operator==(const low_rank_mixture_options&, const low_rank_mixture_options&) = default;
};

/// w += scale * b a, on the host: merges factors into the rows of a matrix. Sums run over the rank in ascending order, in double.
/// @shape w [rows, columns], a [rank, columns], b [rows, rank]
inline void add_low_rank(std::span<float> w, std::span<const float> a, std::span<const float> b, std::size_t rank, double scale) {
  ESFT_EXPECTS(rank > 0 && a.size() % rank == 0 && b.size() % rank == 0, "a [r, K], b [N, r]");
  const std::size_t columns = a.size() / rank;
  ESFT_EXPECTS(w.size() == b.size() / rank * columns, "w [N, K]");
  for (std::size_t i = 0; i < w.size(); ++i) {
    const std::size_t row = i / columns;
    const std::size_t column = i % columns;
    double sum = 0;
    for (std::size_t k = 0; k < rank; ++k) sum += static_cast<double>(b[row * rank + k]) * static_cast<double>(a[k * columns + column]);
    w[i] = static_cast<float>(static_cast<double>(w[i]) + scale * sum);
  }
}

}  // namespace esft
