// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Learning-rate schedules: constant, linear and cosine decay, each after a linear warm-up.

#include <esft/core/type_list.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>

namespace esft {

/// A schedule maps a 1-based step to a factor in [0, 1] on the peak learning rate. It is a pure function: nothing to save.
template <class S>
concept schedule = requires(const S& s, std::int64_t step) {
  { S::name } -> std::convertible_to<std::string_view>;
  { s.factor(step) } -> std::convertible_to<double>;
};

/// Extent of a schedule.
struct schedule_span {
  std::int64_t warmup = 0;     ///< steps of linear warm-up from 0
  std::int64_t total = 1;      ///< step at which the decay ends
  double final_factor = 0;     ///< factor at and after `total`
};

namespace detail {
/// Warm-up factor, or -1 when the warm-up is over.
inline double warm_up(const schedule_span& span, std::int64_t step) {
  return step < span.warmup ? static_cast<double>(step) / static_cast<double>(span.warmup) : -1;
}
/// Progress of the decay in [0, 1].
inline double decay_progress(const schedule_span& span, std::int64_t step) {
  const auto length = static_cast<double>(std::max<std::int64_t>(1, span.total - span.warmup));
  return std::clamp(static_cast<double>(step - span.warmup) / length, 0.0, 1.0);
}
}  // namespace detail

/// Peak rate after the warm-up.
struct constant_schedule {
  static constexpr std::string_view name = "constant";
  schedule_span span;
  [[nodiscard]] double factor(std::int64_t step) const {
    const double warm = detail::warm_up(span, step);
    return warm >= 0 ? warm : 1.0;
  }
};

/// Straight line from 1 to `final_factor`.
struct linear_schedule {
  static constexpr std::string_view name = "linear";
  schedule_span span;
  [[nodiscard]] double factor(std::int64_t step) const {
    const double warm = detail::warm_up(span, step);
    return warm >= 0 ? warm : 1.0 + (span.final_factor - 1.0) * detail::decay_progress(span, step);
  }
};

/// Half a cosine from 1 to `final_factor`. @source I. Loshchilov, F. Hutter, arXiv 1608.03983
struct cosine_schedule {
  static constexpr std::string_view name = "cosine";
  schedule_span span;
  [[nodiscard]] double factor(std::int64_t step) const {
    const double warm = detail::warm_up(span, step);
    if (warm >= 0) return warm;
    return span.final_factor +
           (1.0 - span.final_factor) * 0.5 * (1.0 + std::cos(3.14159265358979323846 * detail::decay_progress(span, step)));
  }
};

using builtin_schedules = type_list<constant_schedule, linear_schedule, cosine_schedule>;

}  // namespace esft
