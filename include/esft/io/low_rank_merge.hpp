// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Low-rank factors of an adapter against the base that they were trained beside: whether they fit, and the tensor W + scale B A.

#include <esft/core/error.hpp>
#include <esft/core/expert_names.hpp>
#include <esft/core/f16.hpp>
#include <esft/core/low_rank.hpp>
#include <esft/core/low_rank_names.hpp>
#include <esft/io/adapter.hpp>
#include <esft/io/expert_slices.hpp>
#include <esft/io/model_directory.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// Stems of all pairs of factors in an adapter, sorted; each of several pairs beside one matrix has its own.
[[nodiscard]] inline std::set<std::string> low_rank_stems(const adapter& changes) {
  std::set<std::string> stems;
  for (const std::string& name : changes.names()) {
    if (is_factor_name(name)) stems.insert(stem_of_factor(name));
  }
  return stems;
}
/// Whether a router chooses among the pairs beside a matrix: then no tensor computes what base and adapter compute together.
[[nodiscard]] inline bool has_low_rank_router(const adapter& changes, std::string_view tensor) {
  return changes.find(low_rank_router_name(low_rank_stem(tensor))) != nullptr;
}
/// Whether an adapter holds factors for this tensor of the base.
[[nodiscard]] inline bool has_low_rank(const adapter& changes, std::string_view tensor) {
  return changes.find(low_rank_name(low_rank_stem(tensor), low_rank_factor::a)) != nullptr || has_low_rank_router(changes, tensor);
}
/// @throws usage_error for an adapter with routers of factors
inline void expect_mergeable(const adapter& changes) {
  for (const std::string& name : changes.names()) {
    if (!is_low_rank_router_name(name)) continue;
    throw usage_error(changes.path().string() + ": " + name +
                      " chooses for each token which low-rank experts add to a matrix, so no merged matrix computes the same; load the "
                      "adapter beside its base");
  }
}

/// The tensors of the base that factors belong to: one, or gate and up.
[[nodiscard]] inline std::vector<std::string> low_rank_tensors(const std::string& pair) {
  const std::string stem = low_rank_matrix_stem(pair);
  constexpr std::string_view fused = ".gate_up_proj";
  if (!stem.ends_with(fused)) return {stem + ".weight"};
  const std::string prefix = stem.substr(0, stem.size() - fused.size()) + ".";
  const expert_names& names = expert_names_in(stem);
  return {prefix + std::string(names.gate) + ".weight", prefix + std::string(names.up) + ".weight"};
}

/// The same in a base whose experts may be stored together.
[[nodiscard]] inline std::vector<std::string> low_rank_tensors(const model_directory& base, const std::string& pair) {
  const std::string stem = low_rank_matrix_stem(pair);  // an expert's part of an interleaved tensor is one matrix under this very name
  return base.find(stem) != nullptr ? std::vector<std::string>{stem} : low_rank_tensors(pair);
}

/// Why a pair of factors does not fit the base, in words; empty when it does.
[[nodiscard]] inline std::string low_rank_problem(const model_directory& base, const adapter& changes, const std::string& stem) {
  const tensor_record* a = changes.find(low_rank_name(stem, low_rank_factor::a));
  const tensor_record* b = changes.find(low_rank_name(stem, low_rank_factor::b));
  if (!changes.manifest().low_rank) return "is a low-rank factor, but esft.json states no scale for it";
  if (a == nullptr || b == nullptr) return std::string("comes without lora_") + (a == nullptr ? "A" : "B");
  index rows = 0;
  for (const std::string& name : low_rank_tensors(base, stem)) {
    const tensor_record* tensor = base.find(name);
    if (tensor == nullptr) return "belongs to " + name + ", which the base model " + base.path().string() + " does not have";
    const std::size_t columns = stored_transposed(name) ? 0 : 1;
    const bool fits = tensor->shape.size() == 2 && a->shape.size() == 2 && b->shape.size() == 2 && a->shape[0] > 0 &&
                      a->shape[1] == tensor->shape[columns] && b->shape[1] == a->shape[0] && a->type == b->type &&
                      detail::is_floating_point(a->type);
    if (!fits)
      return "with shapes " + to_string(a->shape) + " and " + to_string(b->shape) + " does not fit " + name + to_string(tensor->shape);
    rows += tensor->shape[1 - columns];
  }
  if (b->shape[0] != rows) return "has " + std::to_string(b->shape[0]) + " rows, the base " + std::to_string(rows);
  return {};
}

/// Why a router of factors does not fit the base and its pairs, in words; empty when it does.
[[nodiscard]] inline std::string low_rank_router_problem(const model_directory& base, const adapter& changes, const std::string& stem) {
  const tensor_record* router = changes.find(low_rank_router_name(stem));
  const tensor_record* matrix = base.find(low_rank_tensors(base, stem).front());
  if (router == nullptr) return "several pairs of factors beside one matrix need a router";
  if (matrix == nullptr) return "belongs to a matrix that the base model " + base.path().string() + " does not have";
  index pairs = 0;
  while (changes.find(low_rank_name(low_rank_expert_stem(stem, pairs), low_rank_factor::a)) != nullptr) ++pairs;
  const bool fits = router->shape.size() == 2 && matrix->shape.size() == 2 && router->shape[1] == matrix->shape[1] && pairs > 0 &&
                    router->shape[0] >= pairs && router->type == matrix->type;
  if (fits) return {};
  return "with shape " + to_string(router->shape) + " does not fit " + std::to_string(pairs) + " pairs of factors beside a matrix " +
         to_string(matrix->shape);
}

/// Whether a stored tensor is zero throughout. A factor that is adds nothing to its matrix.
[[nodiscard]] inline bool is_zero(const adapter& changes, const std::string& name) {
  std::vector<float> values(changes.find(name)->element_count());
  changes.read_floats(name, values);
  return std::all_of(values.begin(), values.end(), [](float value) { return value == 0; });
}

/// [rows, columns] -> [columns, rows], row-major.
[[nodiscard]] inline std::vector<float> transposed(const std::vector<float>& values, std::size_t rows) {
  std::vector<float> result(values.size());
  const std::size_t columns = values.size() / rows;
  for (std::size_t i = 0; i < values.size(); ++i) result[i % columns * rows + i / columns] = values[i];
  return result;
}

/// W + scale B A for one tensor of the base, rounded to its element type. Base, adapter and record must outlive the source.
/// @pre `low_rank_problem` is empty for its stem @cost one tensor in memory
[[nodiscard]] inline tensor_source low_rank_source(const safetensors_file& shard, const tensor_record& record, const adapter& changes) {
  return {record.name, record.type, record.shape, [&shard, &record, &changes](const byte_sink& sink) {
            const std::string stem = low_rank_stem(record.name);
            const std::string a_name = low_rank_name(stem, low_rank_factor::a);
            const std::string b_name = low_rank_name(stem, low_rank_factor::b);
            const auto rank = static_cast<std::size_t>(changes.find(a_name)->shape[0]);
            std::vector<float> w(record.element_count());
            std::vector<float> a(changes.find(a_name)->element_count());
            std::vector<float> b(changes.find(b_name)->element_count());
            shard.read_floats(record, w);
            changes.read_floats(a_name, a);
            changes.read_floats(b_name, b);
            low_rank_options how = *changes.manifest().low_rank;
            how.rank = static_cast<std::int64_t>(rank);
            if (stored_transposed(record.name)) {  // W^T + scale A^T B^T
              add_low_rank(w, transposed(b, b.size() / rank), transposed(a, rank), rank, how.scale());
            } else {
              const std::size_t mine = static_cast<std::size_t>(record.shape[0]) * rank;  // elements of B beside this tensor
              add_low_rank(w, a, std::span<const float>(b).subspan(is_lower_half(record.name) ? mine : 0, mine), rank, how.scale());
            }
            if (record.type == dtype::float32) return sink(std::as_bytes(std::span<const float>(w)));
            std::vector<std::uint16_t> stored(w.size());
            const bool half = record.type == dtype::float16;
            std::transform(w.begin(), w.end(), stored.begin(), [half](float value) { return half ? f16(value).bits : bf16(value).bits; });
            sink(std::as_bytes(std::span<const std::uint16_t>(stored)));
          }};
}

}  // namespace esft
