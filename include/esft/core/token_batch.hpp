// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `token_batch`: packed token rows, flattened to T = rows x length, as the model consumes them.

#include <esft/core/contract.hpp>
#include <esft/core/forced_routes.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace esft {

/// Label of a token that carries no loss.
inline constexpr std::int32_t ignored_label = -100;

/// A batch of packed rows in host memory. All vectors have T elements.
struct token_batch {
  std::vector<std::int32_t> tokens;    ///< @shape [T] token ids, padding included
  std::vector<std::int32_t> labels;    ///< @shape [T] the token that should follow, or `ignored_label`
  std::vector<std::int32_t> position;  ///< @shape [T] position inside the document, from 0
  std::vector<std::int32_t> key_begin; ///< @shape [T] flattened index of the first token of the same document
  std::vector<std::int32_t> sample;    ///< @shape [T] document number inside the batch, -1 for padding
  forced_routes routes{};              ///< experts that the tokens must take; layers without an entry are routed by their routers
};

/// What takes a batch checks this first, for those that build batches themselves: lists of one length, and tokens that see themselves but
/// nothing behind them. Token ids and labels are checked where they are read. @throws contract_violation that says which list is wrong
inline void check_batch(const token_batch& batch) {
  const std::size_t tokens = batch.tokens.size();
  ESFT_EXPECTS(batch.labels.size() == tokens, "labels [T]: one for each token, `ignored_label` where nothing is learned");
  ESFT_EXPECTS(batch.position.size() == tokens, "position [T]: one for each token, from 0 in each document");
  ESFT_EXPECTS(batch.key_begin.size() == tokens, "key_begin [T]: for each token the index of its document's first token");
  ESFT_EXPECTS(batch.sample.size() == tokens, "sample [T]: for each token the number of its document, -1 for padding");
  for (std::size_t t = 0; t < tokens; ++t) {
    ESFT_EXPECTS(batch.position[t] >= 0, "positions count from 0");
    ESFT_EXPECTS(batch.key_begin[t] >= 0 && static_cast<std::size_t>(batch.key_begin[t]) <= t, "a document begins at its tokens or before");
  }
}

}  // namespace esft
