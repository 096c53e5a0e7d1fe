// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `merge_table`: the learned merges of a byte-pair encoding, and their application to one piece of text.

#include <esft/core/tokenizer_record.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <queue>
#include <span>
#include <tuple>
#include <vector>

namespace esft {

/// Pairs of neighbours by rank. Looked up once for every pair of symbols, so the table is one flat array with open addressing.
class merge_table {
 public:
  /// A later rule for the same pair replaces an earlier one, as in the reference.
  explicit merge_table(std::span<const merge_rule> rules) : slots_(std::bit_ceil(2 * rules.size() + 2)) {
    for (std::size_t rank = 0; rank < rules.size(); ++rank) {
      const std::uint64_t key = key_of(rules[rank].left, rules[rank].right);
      std::size_t at = home(key);
      while (slots_[at].key != free_key && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = {key, static_cast<std::int32_t>(rank), rules[rank].result};
    }
  }

  /// Merges neighbours in `ids` until no rule applies: the lowest rank first, of equal ranks the leftmost. In place.
  /// @cost O(n log n)
  void apply(std::vector<std::int32_t>& ids) const {
    if (ids.size() < 2) return;
    work job(*this, ids);
    job.run();
  }

 private:
  struct slot {
    std::uint64_t key = free_key;
    std::int32_t rank = 0;
    std::int32_t result = 0;
  };
  static constexpr std::uint64_t free_key = std::numeric_limits<std::uint64_t>::max();

  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U | static_cast<std::uint32_t>(right);
  }
  [[nodiscard]] std::size_t home(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15ULL) >> 20U) & (slots_.size() - 1);
  }
  [[nodiscard]] const slot* find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t at = home(key);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].key == key) return &slots_[at];
      if (slots_[at].key == free_key) return nullptr;
    }
  }

  /// One piece while it is merged: symbols are a linked list inside an array, candidates wait in a heap and may be out of date.
  class work {
   public:
    work(const merge_table& table, std::vector<std::int32_t>& ids) : table_(table), ids_(ids), links_(ids.size()) {
      for (std::size_t i = 0; i < ids.size(); ++i) links_[i] = {i == 0 ? none : i - 1, i + 1 == ids.size() ? none : i + 1};
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) propose(i);
    }

    void run() {
      while (!waiting_.empty()) {
        const candidate next = waiting_.top();
        waiting_.pop();
        if (ids_[next.at] == gone || links_[next.at].after == none) continue;
        const slot* rule = table_.find(ids_[next.at], ids_[links_[next.at].after]);
        if (rule == nullptr || rule->result != next.result) continue;  // a neighbour has changed since
        join(next.at, next.result);
      }
      std::erase(ids_, gone);
    }

   private:
    static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
    static constexpr std::int32_t gone = -1;
    struct link {
      std::size_t before, after;
    };
    struct candidate {
      std::int32_t rank;
      std::size_t at;
      std::int32_t result;
    };
    struct later {
      bool operator()(const candidate& a, const candidate& b) const { return std::tie(a.rank, a.at) > std::tie(b.rank, b.at); }
    };

    void propose(std::size_t at) {
      if (const slot* rule = table_.find(ids_[at], ids_[links_[at].after])) waiting_.push({rule->rank, at, rule->result});
    }
    void join(std::size_t at, std::int32_t result) {
      const std::size_t right = links_[at].after;
      ids_[at] = result;
      ids_[right] = gone;
      links_[at].after = links_[right].after;
      if (links_[at].after != none) {
        links_[links_[at].after].before = at;
        propose(at);
      }
      if (links_[at].before != none) propose(links_[at].before);
    }

    const merge_table& table_;
    std::vector<std::int32_t>& ids_;
    std::vector<link> links_;
    std::priority_queue<candidate, std::vector<candidate>, later> waiting_;
  };

  std::vector<slot> slots_;
};

}  // namespace esft
