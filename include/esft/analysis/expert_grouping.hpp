// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which experts are chosen together, and groups made of them: simulates coarser experts on a model that has fine ones.

#include <esft/core/contract.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/core/strong_index.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace esft {

/// A square matrix over the experts of a layer.
struct expert_pair_matrix {
  std::size_t experts = 0;
  std::vector<double> values;  ///< @shape [E, E]

  explicit expert_pair_matrix(std::size_t count = 0) : experts(count), values(count * count) {}
  [[nodiscard]] double& at(std::size_t i, std::size_t j) { return values[i * experts + j]; }
  [[nodiscard]] double at(std::size_t i, std::size_t j) const { return values[i * experts + j]; }
};

/// Streaming count of the tokens that chose two experts together; the diagonal counts those that chose one. Padding and empty slots do not count.
class co_occurrence {
 public:
  /// @pre ids of real tokens are in range
  void observe(const routing_record& record) {
    ESFT_EXPECTS(record.active > 0 && record.experts >= record.active, "K is between 1 and E");
    expert_pair_matrix& counts = entry(record.layer, static_cast<std::size_t>(record.experts));
    const auto active = static_cast<std::size_t>(record.active);
    for (std::size_t row = 0; row < record.ids.size() / active; ++row) {
      if (!record.sample.empty() && record.sample[row] < 0) continue;
      const auto ids = record.ids.subspan(row * active, active);
      for (const std::int32_t i : ids) {
        if (i == no_expert) continue;
        ESFT_EXPECTS(i >= 0 && i < record.experts, "an expert id is in [0, E)");
        for (const std::int32_t j : ids) {
          if (j != no_expert) counts.at(static_cast<std::size_t>(i), static_cast<std::size_t>(j)) += 1;  // exact below 2^53
        }
      }
    }
  }
  void merge(const co_occurrence& other) {
    for (const auto& [index, from] : other.layers_) {
      expert_pair_matrix& to = entry(index, from.experts);
      for (std::size_t n = 0; n < from.values.size(); ++n) to.values[n] += from.values[n];
    }
  }
  [[nodiscard]] const std::map<layer_index, expert_pair_matrix>& layers() const noexcept { return layers_; }

 private:
  expert_pair_matrix& entry(layer_index index, std::size_t experts) {
    expert_pair_matrix& counts = layers_.try_emplace(index, experts).first->second;
    ESFT_EXPECTS(counts.experts == experts, "the records of a layer are of one model");
    return counts;
  }
  std::map<layer_index, expert_pair_matrix> layers_;
};

/// What an expert has in common with itself, which the paper leaves open.
enum class grouping_diagonal : std::uint8_t {
  zero,        ///< literally: only pairs are counted. Experts that meet only each other are then not similar at all
  self_count,  ///< the tokens that chose it
};

/// Cosine between the rows of the counts, 0 where a row is empty. @source arXiv 2407.01906, appendix B
[[nodiscard]] inline expert_pair_matrix row_similarity(expert_pair_matrix counts, grouping_diagonal diagonal = grouping_diagonal::zero) {
  const std::size_t experts = counts.experts;
  if (diagonal == grouping_diagonal::zero) {
    for (std::size_t e = 0; e < experts; ++e) counts.at(e, e) = 0;
  }
  const auto dot = [&](std::size_t i, std::size_t j) {
    double sum = 0;
    for (std::size_t n = 0; n < experts; ++n) sum += counts.at(i, n) * counts.at(j, n);
    return sum;
  };
  expert_pair_matrix similarity(experts);
  for (std::size_t i = 0; i < experts; ++i) {
    for (std::size_t j = 0; j < experts; ++j) {
      const double lengths = std::sqrt(dot(i, i) * dot(j, j));
      similarity.at(i, j) = lengths > 0 ? dot(i, j) / lengths : 0;
    }
  }
  return similarity;
}

namespace detail {
/// The best subset of `left` of a size: highest mean similarity of its pairs, the lexicographically first of equals.
class best_subset {
 public:
  best_subset(const expert_pair_matrix& similarity, const std::vector<std::size_t>& left, std::size_t size)
      : similarity_(similarity), left_(left), size_(size) {
    extend(0, 0);
  }
  [[nodiscard]] const std::vector<std::size_t>& operator()() const noexcept { return best_; }

 private:
  void extend(std::size_t from, double sum) {
    if (chosen_.size() == size_) {
      const double pairs = std::max(1.0, static_cast<double>(size_ * (size_ - 1) / 2));
      if (best_.empty() || sum / pairs > best_mean_ + 1e-12) {
        best_ = chosen_;
        best_mean_ = sum / pairs;
      }
      return;
    }
    for (std::size_t n = from; n < left_.size(); ++n) {
      double more = 0;
      for (const std::size_t e : chosen_) more += similarity_.at(e, left_[n]);
      chosen_.push_back(left_[n]);
      extend(n + 1, sum + more);
      chosen_.pop_back();
    }
  }

  const expert_pair_matrix& similarity_;
  const std::vector<std::size_t>& left_;
  std::size_t size_;
  std::vector<std::size_t> chosen_, best_;
  double best_mean_ = 0;
};
}  // namespace detail

/// Greedy groups of equal size: of all subsets of the experts that are left the one whose pairs are most similar, until none is left.
/// @pre the size divides the number of experts
/// @cost every subset is tried: 2.3 million for 64 experts in groups of 4
/// @source arXiv 2407.01906, appendix B; ties go to the lexicographically first subset, which is ours
[[nodiscard]] inline std::vector<std::vector<expert_index>> group_experts(const expert_pair_matrix& similarity, std::size_t size) {
  ESFT_EXPECTS(size > 0 && similarity.experts % size == 0, "groups of equal size hold all experts");
  std::vector<std::size_t> left;
  for (std::size_t e = 0; e < similarity.experts; ++e) left.push_back(e);
  std::vector<std::vector<expert_index>> groups;
  while (!left.empty()) {
    const std::vector<std::size_t> best = detail::best_subset(similarity, left, size)();
    groups.emplace_back();
    for (const std::size_t e : best) groups.back().emplace_back(static_cast<std::int32_t>(e));
    std::erase_if(left, [&](std::size_t e) { return std::find(best.begin(), best.end(), e) != best.end(); });
  }
  return groups;
}

}  // namespace esft
