// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// AdamW over a list of trained pieces in one launch, their gradients' zeros and their norm.

#include <esft/backend/backend.hpp>
#include <esft/backends/kokkos/loss.hpp>

#include <cmath>

namespace esft::detail::kokkos {

/// Elements of a piece that one team takes.
inline constexpr index elements_of_a_part = 8192;

/// Some thousand neighbouring elements of one trained piece.
template <class T>
struct update_part {
  T* value = nullptr;
  accumulate_t<T>* gradient = nullptr;
  index first = 0;  ///< of the optimizer's state
  std::int32_t count = 0;
  std::int32_t decays = 1;
};

/// Either a list of parts, or one piece that is cut here.
template <class T>
struct update_parts {
  const update_part<T>* listed = nullptr;
  update_part<T> whole{};
  index size = 0;  ///< of the whole

  KOKKOS_INLINE_FUNCTION update_part<T> operator[](index p) const {
    if (listed != nullptr) return listed[p];
    const index first = p * elements_of_a_part;
    return {whole.value + first, whole.gradient + first, first, static_cast<std::int32_t>(smaller(elements_of_a_part, size - first)), 1};
  }
};

/// Scalars of a step in the type of the state.
template <class A>
struct adamw_factors {
  A beta1, beta2, correction1, correction2, rate, decay, epsilon, scale;
  bool round_to_bf16;

  explicit adamw_factors(const adamw_step& s)
      : beta1(static_cast<A>(s.beta1)),
        beta2(static_cast<A>(s.beta2)),
        correction1(static_cast<A>(1.0 - std::pow(s.beta1, static_cast<double>(s.step)))),
        correction2(static_cast<A>(1.0 - std::pow(s.beta2, static_cast<double>(s.step)))),
        rate(static_cast<A>(s.learning_rate)),
        decay(static_cast<A>(s.weight_decay)),
        epsilon(static_cast<A>(s.epsilon)),
        scale(static_cast<A>(s.gradient_scale)),
        round_to_bf16(s.round_to_bf16) {}
};

template <class Execution, class T>
struct adamw_part {
  using sum_type = accumulate_t<T>;
  update_parts<T> parts;
  sum_type* master;
  sum_type* m;
  sum_type* v;
  adamw_factors<sum_type> f;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const update_part<T> part = parts[team.league_rank()];
    if (f.round_to_bf16) {
      run<true>(team, part);
    } else {
      run<false>(team, part);
    }
  }

 private:
  template <bool Rounded, class Team>
  KOKKOS_INLINE_FUNCTION void run(const Team& team, const update_part<T>& part) const {
    T* KOKKOS_RESTRICT const weight = part.value;
    const sum_type* KOKKOS_RESTRICT const gradient = part.gradient;
    sum_type* KOKKOS_RESTRICT const mine = master + part.first;
    sum_type* KOKKOS_RESTRICT const first = m + part.first;
    sum_type* KOKKOS_RESTRICT const second = v + part.first;
    const adamw_factors<sum_type> k = f;
    const sum_type decay = part.decays != 0 ? k.decay : sum_type(0);
    team_each<Execution>(team, part.count, [=](index i) {
      const sum_type g = k.scale * gradient[i];
      const sum_type mean = k.beta1 * first[i] + (sum_type(1) - k.beta1) * g;
      const sum_type square = k.beta2 * second[i] + (sum_type(1) - k.beta2) * g * g;
      const sum_type direction = (mean / k.correction1) / (sqrt(square / k.correction2) + k.epsilon);
      const sum_type updated = mine[i] - k.rate * (direction + decay * mine[i]);
      first[i] = mean;
      second[i] = square;
      mine[i] = updated;
      weight[i] = Rounded ? static_cast<T>(static_cast<float>(bf16(static_cast<float>(updated)))) : static_cast<T>(updated);
    });
  }
};

template <class Execution, class T>
struct clear_part {
  const update_part<T>* parts;
  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const update_part<T> part = parts[team.league_rank()];
    accumulate_t<T>* const gradient = part.gradient;
    team_each<Execution>(team, part.count, [=](index i) { gradient[i] = accumulate_t<T>{}; });
  }
};

/// sums[p] = sum of squares of the gradient of part p.
template <class Execution, class T>
struct square_part {
  const update_part<T>* parts;
  double* sums;
  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const update_part<T> part = parts[team.league_rank()];
    const accumulate_t<T>* const gradient = part.gradient;
    const double sum = team_sum<double, Execution>(team, part.count, [=](index i) {
      const auto x = static_cast<double>(gradient[i]);
      return x * x;
    });
    Kokkos::single(Kokkos::PerTeam(team), [=, *this] { sums[team.league_rank()] = sum; });
  }
};

}  // namespace esft::detail::kokkos
