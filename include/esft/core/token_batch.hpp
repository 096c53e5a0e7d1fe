// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `token_batch`: packed token rows, flattened to T = rows x length, as the model consumes them.

#include <esft/core/forced_routes.hpp>

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

}  // namespace esft
