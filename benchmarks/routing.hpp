// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which experts the tokens of a case go to, and which experts are trained.
///
/// Routings: `uniform`; `zipf`, probability falling as 1 / (rank + 1); `one_hot`, every token takes expert 0, the rest evenly; `empty`, every
/// other expert unused; `<task>_<layer>`, replayed from the published logs of DeepSeek-V2-Lite, where ESFT_OFFICIAL_DATA names their directory.
/// Selections: `none`; `all`; `p8`, the 8 % of the experts that are used most; `<task>_<layer>`, the published one of that layer;
/// `first<N>`, the first N experts.

#include "shapes.hpp"

#include <cstdint>
#include <span>

namespace esft::bench {

/// Published logs, as routings and selections; empty unless ESFT_OFFICIAL_DATA is set.
const std::vector<std::string>& published_layers();
bool is_published(const std::string& name);

/// Every combination of shape, element type, tokens, routing and threads that is measured; selection `none`.
/// One thread only under uniform and Zipf routing. V2-Lite has more token counts under uniform routing, to give its experts 16, 32, 48,
/// 64, 96, 128, 384 and 512 rows in the mean.
std::vector<bench_case> all_cases();

/// Expert ids, K different ones per token; made once for each (shape, tokens, routing). @shape [T, K]
std::span<const std::int32_t> routed_ids(const layer_shape& shape, index tokens, const std::string& routing);

/// Trained experts, ascending.
std::vector<std::int32_t> selected_experts(const layer_shape& shape, std::span<const std::int32_t> ids, const std::string& selection);

/// Rows that go to the given experts.
index rows_of(std::span<const std::int32_t> ids, const std::vector<std::int32_t>& experts);
/// Experts with at least one row.
index experts_in_use(const layer_shape& shape, std::span<const std::int32_t> ids);

}  // namespace esft::bench
