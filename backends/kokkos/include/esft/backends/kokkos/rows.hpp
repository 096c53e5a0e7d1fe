// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Kernels of one row or one element: SwiGLU, RMSNorm, rotary embedding, addition, and sums over columns.

#include <esft/backend/backend.hpp>
#include <esft/backends/kokkos/context.hpp>
#include <esft/backends/kokkos/team.hpp>

namespace esft::detail::kokkos {

template <class A>
KOKKOS_INLINE_FUNCTION A sigmoid(A a) {
  return A(1) / (A(1) + exponential(-a));
}

template <class Execution, class T>
struct swiglu_row {
  const T* gate_up;
  T* h;
  index width;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index r = team.league_rank();
    const T* const gate = gate_up + r * 2 * width;
    const T* const up = gate + width;
    T* const to = h + r * width;
    team_each<Execution>(team, width, [=](index i) {
      const auto a = static_cast<accumulate_t<T>>(gate[i]);
      to[i] = static_cast<T>(a * sigmoid(a) * static_cast<accumulate_t<T>>(up[i]));
    });
  }
};

/// With weights: the backward through weights[slot] * swiglu. Without: plain.
template <class Execution, class T, bool Weighted>
struct swiglu_backward_row {
  using sum_type = accumulate_t<T>;
  const T* gate_up;
  const T* dh;
  const sum_type* weights;
  const std::int32_t* row_slot;
  T* dgate_up;
  T* weighted_h;
  sum_type* dweights;
  index width;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index r = team.league_rank();
    const T* const gate = gate_up + r * 2 * width;
    const T* const up = gate + width;
    const T* const d = dh + r * width;
    T* const dgate = dgate_up + r * 2 * width;
    T* const dup = dgate + width;
    sum_type weight(1);
    if constexpr (Weighted) {
      if (row_slot[r] == no_expert) return;
      weight = weights[row_slot[r]];
      const sum_type dweight = team_sum<sum_type, Execution>(team, width, [=](index i) {
        const auto a = static_cast<sum_type>(gate[i]);
        return static_cast<sum_type>(d[i]) * (a * sigmoid(a) * static_cast<sum_type>(up[i]));
      });
      Kokkos::single(Kokkos::PerTeam(team), [=, *this] { dweights[row_slot[r]] = dweight; });
    }
    T* const h = Weighted ? weighted_h + r * width : nullptr;
    team_each<Execution>(team, width, [=](index i) {
      const auto a = static_cast<sum_type>(gate[i]);
      const auto b = static_cast<sum_type>(up[i]);
      const sum_type from = weight * static_cast<sum_type>(d[i]);
      const sum_type s = sigmoid(a);
      dgate[i] = static_cast<T>(from * b * s * (sum_type(1) + a * (sum_type(1) - s)));
      dup[i] = static_cast<T>(from * a * s);
      if constexpr (Weighted) h[i] = static_cast<T>(weight * (a * s * b));
    });
  }
};

template <class T>
struct add_element {
  const T* x;
  T* y;
  KOKKOS_FUNCTION void operator()(index i) const {
    y[i] = static_cast<T>(static_cast<accumulate_t<T>>(y[i]) + static_cast<accumulate_t<T>>(x[i]));
  }
};

template <class Execution, class T>
struct rms_norm_row {
  using sum_type = accumulate_t<T>;
  const T* x;
  const T* weight;
  T* y;
  sum_type* rstd;
  index width;
  sum_type epsilon;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index n = team.league_rank();
    const T* const from = x + n * width;
    const T* const by = weight;
    T* const to = y + n * width;
    const sum_type squares = team_sum<sum_type, Execution>(team, width, [=](index d) {
      const auto value = static_cast<sum_type>(from[d]);
      return value * value;
    });
    const sum_type factor = sum_type(1) / sqrt(squares / static_cast<sum_type>(width) + epsilon);
    Kokkos::single(Kokkos::PerTeam(team), [=, *this] { rstd[n] = factor; });
    team_each<Execution>(team, width,
                         [=](index d) { to[d] = static_cast<T>(static_cast<sum_type>(from[d]) * factor * static_cast<sum_type>(by[d])); });
  }
};

template <class Execution, class T>
struct rms_norm_dx_row {
  using sum_type = accumulate_t<T>;
  const T* dy;
  const T* x;
  const T* weight;
  const sum_type* rstd;
  T* dx;
  index width;
  bool accumulate;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index n = team.league_rank();
    const T* const from = x + n * width;
    const T* const d_from = dy + n * width;
    const T* const by = weight;
    T* const to = dx + n * width;
    const sum_type factor = rstd[n];
    const bool add = accumulate;
    const sum_type dot = team_sum<sum_type, Execution>(team, width, [=](index d) {
      return static_cast<sum_type>(from[d]) * static_cast<sum_type>(by[d]) * static_cast<sum_type>(d_from[d]);
    });
    const sum_type pull = dot * factor * factor / static_cast<sum_type>(width);
    team_each<Execution>(team, width, [=](index d) {
      const sum_type value =
          factor * (static_cast<sum_type>(by[d]) * static_cast<sum_type>(d_from[d]) - static_cast<sum_type>(from[d]) * pull);
      to[d] = static_cast<T>(add ? static_cast<sum_type>(to[d]) + value : value);
    });
  }
};

/// Columns that one work item sums: neighbours on a core, where they share cache lines; one where threads are neighbours themselves.
template <class Execution>
inline constexpr index columns_at_once = on_cores<Execution> ? 16 : 1;

/// dweight[d] += sum over rows of dy x rstd, in the order of the rows.
template <class Execution, class T>
struct rms_norm_dw_columns {
  using sum_type = accumulate_t<T>;
  static constexpr index wide = columns_at_once<Execution>;
  const T* dy;
  const T* x;
  const sum_type* rstd;
  sum_type* dweight;
  index rows;
  index width;

  KOKKOS_FUNCTION void operator()(index strip) const {
    const index first = strip * wide;
    const index count = smaller(wide, width - first);
    sum_type sum[static_cast<std::size_t>(wide)] = {};
    for (index n = 0; n < rows; ++n) {
      const sum_type factor = rstd[n];
      const index at = n * width + first;
      for (index d = 0; d < count; ++d) sum[d] += static_cast<sum_type>(dy[at + d]) * static_cast<sum_type>(x[at + d]) * factor;
    }
    for (index d = 0; d < count; ++d) dweight[first + d] += sum[d];
  }
};

template <class T>
struct embedding_row {
  const std::int32_t* tokens;
  const T* table;
  T* y;
  index width;
  index vocabulary;
  int* bad;
  int mark_of_bad;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index t = team.league_rank();
    const std::int32_t id = tokens[t];
    if (id < 0 || id >= vocabulary) {
      leave_mark(bad, mark_of_bad);
      return;
    }
    const T* const from = table + id * width;
    T* const to = y + t * width;
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, width), [=](index d) { to[d] = from[d]; });
  }
};

/// dtable[token] += dy in the order of the tokens.
template <class Execution, class T>
struct embedding_dw_columns {
  using sum_type = accumulate_t<T>;
  static constexpr index wide = columns_at_once<Execution>;
  const std::int32_t* tokens;
  const T* dy;
  sum_type* dtable;
  index rows;
  index width;
  index vocabulary;
  int* bad;
  int mark_of_bad;

  KOKKOS_FUNCTION void operator()(index strip) const {
    const index first = strip * wide;
    const index count = smaller(wide, width - first);
    for (index t = 0; t < rows; ++t) {
      const std::int32_t id = tokens[t];
      if (id < 0 || id >= vocabulary) {
        leave_mark(bad, mark_of_bad);
        continue;
      }
      for (index d = first; d < first + count; ++d) dtable[id * width + d] += static_cast<sum_type>(dy[t * width + d]);
    }
  }
};

/// rates[i] = theta^(-2i/F)
struct rope_rate {
  double* rates;
  double theta;
  index width;
  KOKKOS_FUNCTION void operator()(index i) const { rates[i] = pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width)); }
};

template <class Execution, class T>
struct rope_token {
  using sum_type = accumulate_t<T>;
  T* x;
  const std::int32_t* positions;
  const double* rates;
  index heads;
  index width;
  int direction;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index t = team.league_rank();
    const index half = width / 2;
    T* const token = x + t * heads * width;
    const auto position = static_cast<double>(positions[t]);
    team_each<Execution>(team, half, [=, *this](index i) {
      const double angle = position * rates[i];
      const auto c = static_cast<sum_type>(cos(angle));
      const auto s = static_cast<sum_type>(direction * sin(angle));
      for (index h = 0; h < heads; ++h) {
        T* const pair = token + h * width + i;
        const auto first = static_cast<sum_type>(pair[0]);
        const auto second = static_cast<sum_type>(pair[half]);
        pair[0] = static_cast<T>(first * c - second * s);
        pair[half] = static_cast<T>(second * c + first * s);
      }
    });
  }
};

}  // namespace esft::detail::kokkos
