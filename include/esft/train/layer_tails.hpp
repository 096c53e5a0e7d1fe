// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `layer_tails`: how heavy the spectra of each layer's weights are, read from a checkpoint, for allocating low-rank experts.

#include <esft/io/hf_config_json.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/hf_names.hpp>
#include <esft/model/load.hpp>
#include <esft/peft/low_rank_allocation.hpp>
#include <esft/relevance/singular_values.hpp>

#include <algorithm>
#include <cstddef>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace esft {

/// The exponent of a matrix [rows, columns]: `pl_alpha_hill` of the positive eigenvalues of W^T W. @cost that of its singular values
[[nodiscard]] inline double tail_exponent(std::span<const float> matrix, std::size_t rows, std::size_t columns) {
  std::vector<double> eigenvalues;
  for (const double value : singular_values(matrix, rows, columns)) {
    if (value > 0) eigenvalues.push_back(value * value);
  }
  std::reverse(eigenvalues.begin(), eigenvalues.end());
  return pl_alpha_hill(eigenvalues);
}

/// Mean exponent over the matrices of each layer that low-rank experts are to stand beside; gate and up are two matrices here, as in the
/// checkpoint. @param targets empty: all that can have low-rank experts
/// @throws usage_error when a layer has none of them @source AlphaLoRA, arXiv 2410.10054, which takes all matrices of a layer
[[nodiscard]] inline std::vector<double> layer_tails(const model_directory& base, const parameter_inventory& model,
                                                     const std::set<parameter_role>& targets) {
  std::vector<double> sums(layer_count(model));
  std::vector<int> counts(sums.size());
  const checkpoint_names names = names_in(base, config_from_hf(read_hf_config(base.path()), dtype::float32).names);
  for (const parameter_entry& entry : model) {
    const bool wanted = targets.empty() ? takes_low_rank_experts(entry.key.role) : targets.contains(entry.key.role);
    if (!wanted || entry.experts > 0 || entry.key.layer.value < 0) continue;
    for (const hf_piece& piece : hf_pieces(names, entry.key, {entry.rows, entry.columns})) {
      std::vector<float> values(static_cast<std::size_t>(piece.shape[0] * piece.shape[1]));
      base.read_floats(piece.name, values);
      const auto layer = static_cast<std::size_t>(entry.key.layer.value);
      sums[layer] += tail_exponent(values, static_cast<std::size_t>(piece.shape[0]), static_cast<std::size_t>(piece.shape[1]));
      ++counts[layer];
    }
  }
  for (std::size_t l = 0; l < sums.size(); ++l) {
    if (counts[l] == 0) throw usage_error("layer " + std::to_string(l) + " has none of the target matrices: its spectra say nothing");
    sums[l] /= counts[l];
  }
  return sums;
}

}  // namespace esft
