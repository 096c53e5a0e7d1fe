// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `scorer_group`: any scorers side by side, so that one pass over the data serves all of them.

#include <esft/relevance/scorer.hpp>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace esft {

/// Holds scorers of any type and shows each record to those that observe its kind.
class scorer_group {
 public:
  scorer_group() = default;
  scorer_group(const scorer_group&) = delete;  // a copy would share the scorers
  scorer_group& operator=(const scorer_group&) = delete;

  template <relevance_scorer S>
  void add(S scorer) {
    const auto held = std::make_shared<S>(std::move(scorer));
    listen<routing_record>(held);
    listen<expert_output_record>(held);
    listen<expert_gradient_record>(held);
    listen<expert_weights_record>(held);
    scores_[std::string(S::name)] = [held] { return held->scores(); };
  }

  /// Whether any scorer of the group observes this kind of record.
  template <class Record>
  [[nodiscard]] bool reads() const noexcept {
    return !std::get<listeners<Record>>(listeners_).empty();
  }
  /// Whether any of them needs more than the model's weights.
  [[nodiscard]] bool needs_data() const noexcept {
    return reads<routing_record>() || reads<expert_output_record>() || reads<expert_gradient_record>();
  }
  template <class Record>
  void observe(const Record& record) {
    for (const auto& listener : std::get<listeners<Record>>(listeners_)) listener(record);
  }
  /// The scores of every scorer, by its name. @throws error (bad_input) where a scorer lacks observations
  [[nodiscard]] std::map<std::string, score_table> scores() const {
    std::map<std::string, score_table> result;
    for (const auto& [name, scores_of] : scores_) result[name] = scores_of();
    return result;
  }

 private:
  template <class Record>
  using listeners = std::vector<std::function<void(const Record&)>>;

  template <class Record, class S>
  void listen(const std::shared_ptr<S>& held) {
    if constexpr (observes<S, Record>) {
      std::get<listeners<Record>>(listeners_).push_back([held](const Record& record) { held->observe(record); });
    }
  }

  std::tuple<listeners<routing_record>, listeners<expert_output_record>, listeners<expert_gradient_record>,
             listeners<expert_weights_record>>
      listeners_;
  std::map<std::string, std::function<score_table()>> scores_;
};

}  // namespace esft
