// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `write_peft_adapter`: our low-rank factors as a LoRA directory of the package peft, in either of its two layouts.

#include <esft/io/adapter.hpp>
#include <esft/io/directory.hpp>
#include <esft/io/factor_matrix.hpp>
#include <esft/io/low_rank_merge.hpp>
#include <esft/io/peft_config.hpp>
#include <esft/io/peft_names.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace esft {

/// How experts are named in peft's directories.
enum class peft_layout : std::uint8_t {
  modules,     ///< every expert's linear maps one by one: what a checkpoint names; models of transformers 4 and other programs
  parameters,  ///< one tensor for all experts of a layer (`target_parameters`): models of transformers 5
};

namespace detail {

/// Collects what a directory will hold.
struct peft_writer {
  const adapter& from;
  peft_config config;
  std::vector<tensor_source> sources{};

  void add(const std::string& module, bool as_parameter, std::int64_t rank, tensor_source a, tensor_source b) {
    const std::string target = as_parameter ? module + ".weight" : module;
    (as_parameter ? config.target_parameters : config.target_modules).push_back(target);
    if (rank != config.how.rank) config.ranks[target] = rank;
    put(module, std::move(a), std::move(b));
  }
  /// Every expert's factors of one matrix as two tensors; experts without factors get zeros.
  void add_stack(const std::string& place, const std::string& parameter, index experts, const std::map<index, std::string>& stems) {
    const std::string& first = stems.begin()->second;
    const tensor_record& a = *from.find(low_rank_name(first, low_rank_factor::a));
    const tensor_record& b = *from.find(low_rank_name(first, low_rank_factor::b));
    const index rank = a.shape[0];
    const index inner = a.shape[1];
    const index rows = b.shape[0];
    for (const auto& [expert, stem] : stems) {
      if (from.find(low_rank_name(stem, low_rank_factor::a))->shape[0] == rank) continue;
      throw usage_error(from.path().string() + ": " + stem + " and " + first +
                        " have factors of different ranks, which one tensor cannot hold");
    }
    config.target_parameters.push_back(parameter);
    if (rank != config.how.rank) config.ranks[parameter] = rank;
    const adapter* source = &from;
    put(place,
        matrix_source({}, a.type, experts * rank, inner,
                      [=] {
                        factor_matrix whole(experts * rank, inner);
                        for (const auto& [expert, stem] : stems) {
                          whole.put(read_factor(*source, low_rank_name(stem, low_rank_factor::a)), expert * rank, 0);
                        }
                        return whole;
                      }),
        matrix_source({}, b.type, rows, rank * experts, [=] {
          factor_matrix whole(rows, rank * experts);
          for (const auto& [expert, stem] : stems) {
            const factor_matrix one = read_factor(*source, low_rank_name(stem, low_rank_factor::b));
            for (index row = 0; row < rows; ++row) {
              for (index k = 0; k < rank; ++k) whole.at(row, k * experts + expert) = one.at(row, k);
            }
          }
          return whole;
        }));
  }

 private:
  void put(const std::string& module, tensor_source a, tensor_source b) {
    a.name = std::string(peft_files::prefix) + module + ".lora_A.weight";
    b.name = std::string(peft_files::prefix) + module + ".lora_B.weight";
    sources.push_back(std::move(a));
    sources.push_back(std::move(b));
  }
};

/// One stem as linear maps of its own: gate and up share A and take their rows of B.
inline void add_modules(peft_writer& out, const model_directory& base, const std::string& stem, peft_layout layout) {
  const std::string a_name = low_rank_name(stem, low_rank_factor::a);
  const std::string b_name = low_rank_name(stem, low_rank_factor::b);
  const tensor_record& b = *out.from.find(b_name);
  index row = 0;
  for (const std::string& tensor : low_rank_tensors(base, stem)) {
    if (!tensor.ends_with(".weight")) {
      throw usage_error(
          tensor + ": this family's experts are no linear maps of their own, which the layout modules names; use the layout parameters");
    }
    const index rows = base.at(tensor).shape[0];
    const std::string module = tensor.substr(0, tensor.size() - 7);  // without ".weight"
    const bool in_memory = layout == peft_layout::parameters;
    const adapter* from = &out.from;
    out.add(
        in_memory ? peft_memory_name(module) : module, in_memory && module.find(".self_attn.") == std::string::npos && module != "lm_head",
        b.shape[1], out.from.source(a_name),
        matrix_source({}, b.type, rows, b.shape[1], [from, b_name, row, rows] { return read_factor(*from, b_name).row_range(row, rows); }));
    row += rows;
  }
}

/// @throws usage_error, input_error where the adapter is more than factors, or does not belong to the base
inline void expect_exportable(const model_directory& base, const adapter& from) {
  for (const std::string& name : from.names()) {
    if (is_factor_name(name) && name.find(".lora_experts.") == std::string::npos) continue;
    const std::string what = is_low_rank_name(name) ? "belongs to low-rank experts with a router of their own" : "is a whole tensor";
    throw usage_error(from.path().string() + ": " + name + " " + what + ", for which a LoRA directory of peft has no place" +
                      (is_low_rank_name(name) ? "" : "; `esft merge` writes a model that other programs load"));
  }
  for (const std::string& stem : low_rank_stems(from)) {
    const std::string problem = low_rank_problem(base, from, stem);
    if (problem.empty()) continue;
    throw input_error(input_error_code::shape_mismatch, {from.path().string(), stem, {}}, problem, "choose the base it was trained on");
  }
}

}  // namespace detail

/// Writes `adapter_config.json` and `adapter_model.safetensors`. Factors keep their element type; nothing is rounded.
/// @throws usage_error for an adapter that holds more than low-rank factors, naming it; input_error `wrong_base`; storage_error
inline void write_peft_adapter(const std::filesystem::path& directory, const model_directory& base, const adapter& from,
                               peft_layout layout) {
  detail::expect_exportable(base, from);
  expect_trained_on(base, from);
  from.verify_digests();
  low_rank_options how = from.manifest().low_rank.value();
  how.dropout = 0;
  detail::peft_writer out{from, {how, {}, {}, {}, {}, base.path().filename().string()}};
  std::map<std::string, std::map<index, std::string>> stacks;  // "...experts.<leaf>" -> expert -> stem
  for (const std::string& stem : low_rank_stems(from)) {
    const auto place = split_expert_stem(stem);
    if (layout == peft_layout::parameters && place) {
      stacks[place->stack + "." + place->leaf][place->expert] = stem;
    } else {
      detail::add_modules(out, base, stem, layout);
    }
  }
  for (const auto& [name, stems] : stacks) {
    const expert_stem place = *split_expert_stem(stems.begin()->second);
    const bool first = place.leaf == "gate_up_proj";
    const bool both = first && stacks.contains(place.stack + "." + std::string(expert_names_in(place.stack).down));
    const std::string memory = peft_memory_name(place.stack);
    out.add_stack(memory + (both ? ".base_layer" : ""), memory + (first ? ".gate_up_proj" : ".down_proj"), count_experts(base, place),
                  stems);
  }
  atomic_directory target(directory, {peft_files::config, peft_files::tensors});
  write_safetensors(target.path() / peft_files::tensors, out.sources, {{"format", "pt"}});
  write_file_atomically(target.path() / peft_files::config, write_peft_config(out.config));
  target.commit();
}

}  // namespace esft
