// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `import_peft_adapter`: a LoRA directory of the package peft, in either of its layouts, as an adapter of ours beside its base.

#include <esft/io/adapter.hpp>
#include <esft/io/factor_matrix.hpp>
#include <esft/io/low_rank_merge.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/peft_config.hpp>
#include <esft/io/peft_names.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// What was read.
struct peft_import {
  std::size_t pairs = 0;  ///< pairs of factors that the adapter of ours holds
  std::size_t idle = 0;   ///< pairs left out because A or B is zero throughout: they add nothing
  bool widened = false;   ///< stored as float32 because a scale could not be folded into the factors' own type without rounding
};

namespace detail {

/// Which rows of the matrix that our factors belong to a pair of peft's adds to.
enum class factor_rows : std::uint8_t { all, upper, lower };

/// One pair of peft's.
struct peft_pair {
  factor_matrix a;  ///< @shape [r, K]
  factor_matrix b;  ///< @shape [N, r]
  double scale = 1;
  factor_rows rows = factor_rows::all;
};

/// Reads one directory; collects pairs by the stems of our names.
class peft_reader {
 public:
  peft_reader(const std::filesystem::path& directory, const model_directory& base)
      : config_(read_peft_config(directory)), file_(open(directory)), base_(base) {
    for (const tensor_record& record : file_.tensors()) {
      note_type(record);
      if (record.name.ends_with(a_end)) read_pair(record);
    }
    for (const tensor_record& record : file_.tensors()) {
      if (!used_.contains(record.name)) refuse(record);
    }
  }

  [[nodiscard]] const peft_config& config() const { return config_; }
  /// float32, or bfloat16 where all tensors are.
  [[nodiscard]] dtype type() const { return all_bf16_ ? dtype::bfloat16 : dtype::float32; }
  [[nodiscard]] std::map<std::string, std::vector<peft_pair>>& pairs() { return pairs_; }
  /// @throws input_error where two pairs add to the same rows
  void expect_one_pair_each(const std::string& stem, const std::vector<peft_pair>& parts) const {
    const bool whole = std::any_of(parts.begin(), parts.end(), [](const peft_pair& part) { return part.rows == factor_rows::all; });
    const bool clash = parts.size() > 2 || (parts.size() == 2 && (whole || parts[0].rows == parts[1].rows));
    if (clash) throw input_error(input_error_code::duplicate_key, place(stem), "has two pairs of factors beside the same rows");
  }

 private:
  static constexpr std::string_view a_end = ".lora_A.weight";
  static constexpr std::string_view b_end = ".lora_B.weight";

  static safetensors_file open(const std::filesystem::path& directory) {
    if (std::filesystem::exists(directory / peft_files::tensors)) return safetensors_file::open(directory / peft_files::tensors);
    throw input_error(input_error_code::nothing_to_load, {directory.string(), {}, {}}, "no " + std::string(peft_files::tensors),
                      "save the adapter with safetensors (save_pretrained's default)");
  }
  [[nodiscard]] input_place place(const std::string& name) const { return {file_.path().string(), name, {}}; }

  void note_type(const tensor_record& record) { all_bf16_ = all_bf16_ && record.type == dtype::bfloat16; }

  [[nodiscard]] factor_matrix numbers(const tensor_record& record) const {
    if (!is_floating_point(record.type) || record.shape.size() != 2) {
      throw input_error(input_error_code::shape_mismatch, place(record.name), "a factor is a matrix of floating-point numbers");
    }
    factor_matrix result(record.shape[0], record.shape[1]);
    file_.read_floats(record, result.values);
    return result;
  }

  [[noreturn]] void refuse(const tensor_record& record) const {
    const std::string& name = record.name;
    const auto has = [&](std::string_view part) { return name.find(part) != std::string::npos; };
    const std::string what = has("lora_embedding_")         ? "adapts an embedding"
                             : has("lora_magnitude_vector") ? "belongs to DoRA"
                             : name.ends_with(b_end)        ? "has no lora_A beside it"
                             : name.ends_with("bias")       ? "is a bias"
                                                            : "is a whole module (modules_to_save), or nothing that LoRA knows";
    throw input_error(input_error_code::unsupported_feature, place(name), what + ", which esft does not read from such an adapter",
                      "merge the adapter into its base with peft and load the merged model");
  }

  void read_pair(const tensor_record& a_record) {
    const std::string stem = a_record.name.substr(0, a_record.name.size() - a_end.size());
    const tensor_record* b_record = file_.find(stem + std::string(b_end));
    if (b_record == nullptr) throw input_error(input_error_code::unknown_tensor, place(a_record.name), "has no lora_B beside it");
    if (!stem.starts_with(peft_files::prefix)) {
      throw input_error(input_error_code::unknown_tensor, place(a_record.name),
                        "the name does not begin with '" + std::string(peft_files::prefix) + "'");
    }
    used_.insert({a_record.name, b_record->name});
    peft_pair pair{numbers(a_record), numbers(*b_record)};
    std::string module = stem.substr(peft_files::prefix.size());
    int depth = 0;
    constexpr std::string_view wrapper = ".base_layer";
    while (module.ends_with(wrapper)) {
      module.resize(module.size() - wrapper.size());
      ++depth;
    }
    if (module.ends_with(".experts")) return add_stack(a_record, module, depth, pair);
    const std::string tensor = base_tensor(module);
    if (tensor.empty() || depth > 0) {
      throw input_error(input_error_code::unknown_tensor, place(a_record.name),
                        "the base " + base_.path().string() + " has no matrix '" + printable(module) + "'",
                        "choose the base that the adapter was trained on");
    }
    const bool by_parameter = targets_parameter(config_, module + ".weight");
    pair.scale = scale_of(by_parameter ? module + ".weight" : module, pair.a.rows);
    pair.rows = !is_half(tensor) ? factor_rows::all : is_lower_half(tensor) ? factor_rows::lower : factor_rows::upper;
    expect_fits(a_record, pair, base_.at(tensor).shape);
    accept_unchanged_base(module, tensor);
    pairs_[low_rank_stem(tensor)].push_back(std::move(pair));
  }

  /// The tensor of the base that a module's weight is, or nothing.
  [[nodiscard]] std::string base_tensor(const std::string& module) const {
    if (base_.find(module + ".weight") != nullptr) return module + ".weight";
    for (const expert_names& style : expert_name_styles) {
      const std::string name = with_block(module, style.block) + ".weight";
      if (base_.find(name) != nullptr) return name;
    }
    return {};
  }
  [[nodiscard]] double scale_of(std::string_view name, index rank) const {
    low_rank_options how = config_.how;
    how.rank = rank;
    how.alpha = alpha_of(config_, name);
    return how.scale();
  }
  void expect_fits(const tensor_record& a, const peft_pair& pair, const tensor_shape& matrix) const {
    const bool fits =
        pair.a.rows > 0 && matrix.size() == 2 && pair.b.columns == pair.a.rows && pair.b.rows == matrix[0] && pair.a.columns == matrix[1];
    if (fits) return;
    throw input_error(input_error_code::shape_mismatch, place(a.name),
                      "factors " + to_string({pair.a.rows, pair.a.columns}) + " and " + to_string({pair.b.rows, pair.b.columns}) +
                          " do not fit a matrix " + to_string(matrix),
                      "choose the base that the adapter was trained on");
  }
  /// peft saves the base's own weight beside factors of the head: it must be the one that we have.
  void accept_unchanged_base(const std::string& module, const std::string& tensor) {
    const tensor_record* copy = file_.find(std::string(peft_files::prefix) + module + ".base_layer.weight");
    if (copy == nullptr) return;
    used_.insert(copy->name);
    std::vector<float> theirs(copy->element_count());
    std::vector<float> ours(base_.at(tensor).element_count());
    file_.read_floats(*copy, theirs);
    base_.read_floats(tensor, ours);
    if (theirs != ours) {
      throw input_error(input_error_code::wrong_base, place(copy->name), "differs from the base's own weight",
                        "choose the base that the adapter was trained on");
    }
  }

  /// Factors of all experts of a layer: A [E, r, K] by rows, B [N, r, E] by columns, the expert running fastest.
  void add_stack(const tensor_record& a_record, const std::string& module, int depth, const peft_pair& all) {
    std::vector<std::string> targeted;  // innermost first
    for (const char* parameter : {"gate_up_proj", "down_proj"}) {
      if (targets_parameter(config_, module + "." + parameter)) targeted.emplace_back(parameter);
    }
    const auto levels = static_cast<int>(targeted.size());
    if (depth >= levels) {
      throw input_error(input_error_code::unknown_tensor, place(a_record.name),
                        "target_parameters of " + std::string(peft_files::config) + " do not say which parameter of the experts this is");
    }
    const std::string parameter = targeted[static_cast<std::size_t>(levels - 1 - depth)];
    const bool first = parameter == "gate_up_proj";
    expert_stem zero;
    index experts = 0;
    for (const expert_names& style : expert_name_styles) {
      zero = {with_block(module, style.block), 0, first ? parameter : std::string(style.down)};
      experts = count_experts(base_, zero);
      if (experts > 0) break;
    }
    if (experts == 0 || all.a.rows % experts != 0 || all.b.columns != all.a.rows) {
      throw input_error(
          input_error_code::shape_mismatch, place(a_record.name),
          "factors of " + std::to_string(all.a.rows) + " rows do not divide among the " + std::to_string(experts) + " experts of the base",
          "choose the base that the adapter was trained on");
    }
    const index rank = all.a.rows / experts;
    const double scale = scale_of(module + "." + parameter, rank);
    for (index e = 0; e < experts; ++e) {
      peft_pair one{all.a.row_range(e * rank, rank), factor_matrix(all.b.rows, rank), scale, factor_rows::all};
      for (index row = 0; row < all.b.rows; ++row) {
        for (index k = 0; k < rank; ++k) one.b.at(row, k) = all.b.at(row, k * experts + e);
      }
      const std::string stem = zero.of(e);
      expect_fits(a_record, one, matrix_shape(base_, stem));
      pairs_[stem].push_back(std::move(one));
    }
  }

  peft_config config_;
  safetensors_file file_;
  const model_directory& base_;
  std::set<std::string> used_;
  bool all_bf16_ = true;
  std::map<std::string, std::vector<peft_pair>> pairs_;
};

/// Gate and up have one pair with us: joined where both read the same A, else one below the other, B block by block. A pair of one half
/// only gets rows of zeros for the other.
[[nodiscard]] inline peft_pair joined(std::vector<peft_pair> parts) {
  if (parts.front().rows == factor_rows::all) return std::move(parts.front());
  std::sort(parts.begin(), parts.end(), [](const peft_pair& x, const peft_pair& y) { return x.rows < y.rows; });
  const index half = parts.front().b.rows;
  const auto first_row = [&](const peft_pair& part) { return part.rows == factor_rows::lower ? half : 0; };
  const bool shared =
      parts.size() == 2 && parts[0].a.values == parts[1].a.values && parts[0].a.rows == parts[1].a.rows && parts[0].scale == parts[1].scale;
  index rank = 0;
  for (const peft_pair& part : parts) rank += part.a.rows;
  if (shared) rank = parts[0].a.rows;
  peft_pair result{factor_matrix(rank, parts.front().a.columns), factor_matrix(2 * half, rank), parts.front().scale, factor_rows::all};
  index row = 0;
  for (const peft_pair& part : parts) {
    result.a.put(part.a, row, 0);
    result.b.put(part.b, first_row(part), row, part.scale / result.scale);
    if (!shared) row += part.a.rows;
  }
  return result;
}

/// The pair with a larger rank, its further rows and columns zero.
inline void widen(peft_pair& pair, index rank) {
  if (pair.a.rows == rank) return;
  peft_pair wide{factor_matrix(rank, pair.a.columns), factor_matrix(pair.b.rows, rank), pair.scale, factor_rows::all};
  wide.a.put(pair.a, 0, 0);
  wide.b.put(pair.b, 0, 0);
  pair = std::move(wide);
}

[[nodiscard]] inline bool is_power_of_two(double value) {
  int exponent = 0;
  return std::frexp(value, &exponent) == 0.5;
}

}  // namespace detail

/// Reads a LoRA directory of peft and writes it as an adapter of ours to `output`. What base and adapter compute is the same: scales that
/// our one alpha does not give are folded into B, in float32 where B's own type would round them. The adapter is bound to `base`.
/// @throws input_error naming what does not fit the base or is not read; usage_error; storage_error
inline peft_import import_peft_adapter(const std::filesystem::path& directory, const model_directory& base,
                                       const std::filesystem::path& output) {
  detail::peft_reader reader(directory, base);
  peft_import report;
  std::map<std::string, detail::peft_pair> pairs;
  std::map<std::string, index> ranks;  // experts of a stack have one rank
  const auto stack_of = [](const std::string& stem) {
    const auto place = split_expert_stem(stem);
    return place ? place->stack + "." + place->leaf : stem;
  };
  bool exact = true;
  for (auto& [stem, parts] : reader.pairs()) {
    reader.expect_one_pair_each(stem, parts);
    for (const auto& part : parts) exact = exact && detail::is_power_of_two(part.scale / parts.front().scale);
    detail::peft_pair pair = detail::joined(std::move(parts));
    if (pair.a.is_zero() || pair.b.is_zero() || pair.scale == 0) {
      ++report.idle;
      continue;
    }
    index& rank = ranks[stack_of(stem)];
    rank = std::max(rank, pair.a.rows);
    pairs.emplace(stem, std::move(pair));
  }
  if (pairs.empty()) {
    throw input_error(input_error_code::nothing_to_load, {directory.string(), {}, {}}, "every pair of factors adds nothing",
                      "the adapter was saved before it was trained");
  }
  low_rank_options how = reader.config().how;
  adapter_manifest manifest{"lora", base.digest(), {}, {}, {{"made_by", "peft"}}, how};
  for (auto& [stem, pair] : pairs) {
    detail::widen(pair, ranks[stack_of(stem)]);
    how.rank = pair.a.rows;
    const double fold = pair.scale / how.scale();
    exact = exact && detail::is_power_of_two(fold);
    factor_matrix b(pair.b.rows, pair.b.columns);
    b.put(pair.b, 0, 0, fold);
    pair.b = std::move(b);
    if (const auto place = split_expert_stem(stem)) {
      auto& experts = manifest.experts.experts.layers[layer_index{static_cast<std::int32_t>(place->layer())}];
      const expert_index expert{static_cast<std::int32_t>(place->expert)};
      if (std::find(experts.begin(), experts.end(), expert) == experts.end()) experts.push_back(expert);
    }
  }
  report.pairs = pairs.size();
  report.widened = !exact && reader.type() == dtype::bfloat16;
  const dtype type = exact ? reader.type() : dtype::float32;
  std::vector<tensor_source> sources;
  for (const auto& [stem, pair] : pairs) {
    for (const low_rank_factor factor : {low_rank_factor::a, low_rank_factor::b}) {
      const factor_matrix* matrix = factor == low_rank_factor::a ? &pair.a : &pair.b;
      manifest.planned.push_back(low_rank_name(stem, factor));
      sources.push_back(matrix_source(manifest.planned.back(), type, matrix->rows, matrix->columns, [matrix] { return *matrix; }));
    }
  }
  for (auto& [layer, experts] : manifest.experts.experts.layers) std::sort(experts.begin(), experts.end());
  std::sort(manifest.planned.begin(), manifest.planned.end());
  write_adapter(output, manifest, sources);
  return report;
}

}  // namespace esft
