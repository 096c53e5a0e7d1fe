// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What two ways of fine-tuning forget at the same task loss, from runs of each at several learning rates.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace esft {

/// One run in the plane of gain and harm.
struct trade_off_point {
  double task_loss = 0;  ///< after training, positive
  double forgotten = 0;  ///< rise of the loss elsewhere
};

/// What a way of fine-tuning can do: its runs at several rates, less those that another of them beats on both counts.
/// Between two neighbours it is linear in the logarithm of the task loss; it says nothing outside its own runs.
class trade_off_curve {
 public:
  /// Runs that diverged (not finite, or no positive loss) are left out.
  explicit trade_off_curve(std::vector<trade_off_point> runs) {
    std::erase_if(
        runs, [](const trade_off_point& r) { return !(r.task_loss > 0) || !std::isfinite(r.task_loss) || !std::isfinite(r.forgotten); });
    std::sort(runs.begin(), runs.end(), [](const trade_off_point& a, const trade_off_point& b) {
      return std::pair(a.task_loss, a.forgotten) < std::pair(b.task_loss, b.forgotten);
    });
    for (const trade_off_point& run : runs) {  // from the lowest loss: a higher one is worth keeping only if it forgets less
      if (points_.empty() || run.forgotten < points_.back().forgotten) points_.push_back(run);
    }
  }
  [[nodiscard]] const std::vector<trade_off_point>& points() const noexcept { return points_; }

  /// What is forgotten at a task loss; nothing outside [lowest, highest] loss of the curve.
  [[nodiscard]] std::optional<double> forgotten_at(double task_loss) const {
    const auto above = std::lower_bound(points_.begin(), points_.end(), task_loss,
                                        [](const trade_off_point& point, double loss) { return point.task_loss < loss; });
    if (above == points_.end()) return std::nullopt;
    if (above->task_loss == task_loss) return above->forgotten;
    if (above == points_.begin()) return std::nullopt;
    const trade_off_point& low = *std::prev(above);
    const double share = std::log(task_loss / low.task_loss) / std::log(above->task_loss / low.task_loss);
    return low.forgotten + share * (above->forgotten - low.forgotten);
  }

 private:
  std::vector<trade_off_point> points_;  ///< loss ascending, forgetting descending
};

/// Mean of what `a` forgets less what `b` forgets, over `samples` task losses evenly spaced in their logarithm across the range that both
/// curves reach. Nothing if they share no range: neither then says what it would forget at the other's losses.
[[nodiscard]] inline std::optional<double> forgotten_at_matched_loss(const trade_off_curve& a, const trade_off_curve& b,
                                                                     std::size_t samples = 9) {
  if (a.points().empty() || b.points().empty() || samples == 0) return std::nullopt;
  const double low = std::max(a.points().front().task_loss, b.points().front().task_loss);
  const double high = std::min(a.points().back().task_loss, b.points().back().task_loss);
  if (low > high) return std::nullopt;
  double sum = 0;
  for (std::size_t i = 0; i < samples; ++i) {
    const double share = samples == 1 ? 0.5 : static_cast<double>(i) / static_cast<double>(samples - 1);
    const double loss = std::clamp(low * std::pow(high / low, share), low, high);
    sum += a.forgotten_at(loss).value() - b.forgotten_at(loss).value();
  }
  return sum / static_cast<double>(samples);
}

}  // namespace esft
