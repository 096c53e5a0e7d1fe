// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// How a receipt is shown: what was proved, or which tensors differ.

#include "console.hpp"

#include <esft/io/json.hpp>
#include <esft/io/receipt.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace esft::tool {

/// Every kind of difference with its tensors, each as one line on stderr.
inline void print_differences(const receipt& proof) {
  const std::vector<std::pair<const char*, const std::vector<std::string>*>> kinds{
      {"planned but not saved", &proof.unsaved},         {"saved but not planned", &proof.unplanned},
      {"planned but unchanged", &proof.unchanged},       {"not a tensor of the base", &proof.foreign},
      {"not the bytes that were saved", &proof.damaged}, {"frozen but changed", &proof.moved},
      {"merged with other bytes", &proof.unmerged},      {"missing from the merged model", &proof.missing},
      {"added to the merged model", &proof.added},
  };
  if (!proof.base_matches.value_or(true)) std::fprintf(stderr, "esft: the adapter was trained on another base (SHA-256 differs)\n");
  constexpr std::size_t shown = 20;
  for (const auto& [what, names] : kinds) {
    for (std::size_t i = 0; i < std::min(shown, names->size()); ++i) {
      std::fprintf(stderr, "esft: %s: %s\n", what, detail::printable((*names)[i]).c_str());
    }
    if (names->size() > shown) std::fprintf(stderr, "esft: %s: and %zu more\n", what, names->size() - shown);
  }
  if (!proof.unchanged.empty()) {
    std::fprintf(stderr,
                 "esft: an expert to which no token of the data went does not change, nor does a weight that steps are too small to move: "
                 "train on more data, or leave out of the plan what the task does not use (esft score, esft select)\n");
  }
}

/// The receipt for people, or as JSON.
inline void print_receipt(const receipt& proof, bool as_json = true) {
  const auto mark = [&](bool good) { return good ? out().good("ok ") : out().bad("NOT"); };
  const bool tensors =
      proof.unsaved.empty() && proof.unplanned.empty() && proof.unchanged.empty() && proof.foreign.empty() && proof.damaged.empty();
  out().line("receipt");
  out().line("  " + mark(tensors) + " planned = changed = saved: " + std::to_string(proof.planned) + " / " + std::to_string(proof.changed) +
             " / " + std::to_string(proof.saved) + " tensors");
  if (proof.base_matches)
    out().line("  " + mark(*proof.base_matches) + " trained on this base   sha256 " + proof.base_digest.substr(0, 12));
  if (proof.frozen_identical) {
    out().line("  " + mark(*proof.frozen_identical == proof.frozen && proof.moved.empty()) +
               " frozen tensors byte-identical: " + std::to_string(*proof.frozen_identical) + " of " + std::to_string(proof.frozen));
    out().line("  " + mark(proof.unmerged.empty() && proof.missing.empty() && proof.added.empty()) + " merged = base + adapter");
  } else {
    out().line("  " + mark(proof.moved.empty()) + " frozen tensors not in the adapter: " + std::to_string(proof.frozen));
  }
  if (!proof.idle.empty()) {
    out().line("     low-rank experts that no token chose: " + std::to_string(proof.idle.size() / 2) + ", such as " + proof.idle.front());
  }
  print_differences(proof);
  if (as_json) {
    const std::string text = write_receipt(proof);
    out().result(parse_json(text, "receipt"));
  }
}

}  // namespace esft::tool
