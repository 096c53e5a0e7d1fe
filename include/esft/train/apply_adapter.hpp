// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Puts an adapter's tensors into a loaded model, and finds frozen tensors that are no longer those of the checkpoint.

#include <esft/io/adapter.hpp>
#include <esft/model/decoder.hpp>
#include <esft/model/hf_names.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

namespace esft {

/// The adapter's own directory: `path`, or `path/adapter` where `path` is the directory of a training run.
[[nodiscard]] inline std::filesystem::path adapter_directory(const std::filesystem::path& path) {
  const bool is_run =
      !std::filesystem::exists(path / adapter_files::experts) && std::filesystem::exists(path / "adapter" / adapter_files::experts);
  return is_run ? path / "adapter" : path;
}

namespace detail {
/// Makes the routed pairs that an adapter holds for one matrix, frozen, their values not yet read. False where it holds none.
template <class Backend, class Weight>
bool attach_mixture(Backend& backend, parameter_key key, Weight& w, const adapter& changes, const std::string& stem,
                    const std::function<void(const std::string&)>& used) {
  const std::string router_name = low_rank_router_name(stem);
  const tensor_record* router = changes.find(router_name);
  if (router == nullptr) return false;
  const auto [rows, columns] = w.part_shape();
  const auto active = changes.manifest().low_rank_active.find(key.layer);
  low_rank_options how = changes.manifest().low_rank.value_or(low_rank_options{});
  low_rank_mixture_options mixture;
  mixture.experts = 0;
  bool fits = changes.manifest().low_rank && active != changes.manifest().low_rank_active.end() && router->shape.size() == 2 &&
              router->shape[1] == columns;
  while (fits) {
    const std::string pair = low_rank_expert_stem(stem, mixture.experts);
    const tensor_record* a = changes.find(low_rank_name(pair, low_rank_factor::a));
    const tensor_record* b = changes.find(low_rank_name(pair, low_rank_factor::b));
    if (a == nullptr || b == nullptr) break;
    fits = a->shape.size() == 2 && a->shape[0] > 0 && (mixture.experts == 0 || a->shape[0] == how.rank) && a->shape[1] == columns &&
           b->shape == tensor_shape{rows, a->shape[0]};
    how.rank = a->shape[0];
    used(low_rank_name(pair, low_rank_factor::a));
    used(low_rank_name(pair, low_rank_factor::b));
    ++mixture.experts;
  }
  if (fits) {
    mixture.active = static_cast<int>(active->second);
    fits = mixture.experts >= 1 && router->shape[0] >= mixture.experts && router->shape[0] < 1'000'000 && mixture.active >= 1 &&
           mixture.active <= router->shape[0] && (router->shape[0] == mixture.experts || mixture.active > 1);
  }
  if (!fits || w.low_rank) {
    throw input_error(input_error_code::shape_mismatch, {changes.path().string(), router_name, {}},
                      "and its pairs of factors do not fit a matrix of " + std::to_string(rows) + " x " + std::to_string(columns) +
                          ", or esft.json does not say how many of them a token uses",
                      "choose the base that the adapter was trained on");
  }
  mixture.null_experts = static_cast<int>(router->shape[0]) - mixture.experts;
  used(router_name);
  make_low_rank_mixture(backend, w, how, mixture, 0);
  return true;
}
/// Puts the factors that an adapter holds for one weight beside it, frozen. `used` takes the names.
template <class Backend, class Weight>
void attach_factors(Backend& backend, const checkpoint_names& names, parameter_key key, Weight& w, const adapter& changes,
                    const std::function<void(const std::string&)>& used) {
  const auto& extents = w.value.shape();
  const std::vector<std::string> stems = low_rank_stems(names, key, {extents.begin(), extents.end()});
  const auto [rows, columns] = w.part_shape();
  low_rank_options how = changes.manifest().low_rank.value_or(low_rank_options{});
  std::vector<std::int32_t> experts;
  bool any = false;
  for (std::size_t part = 0; part < stems.size(); ++part) {
    const std::string a_name = low_rank_name(stems[part], low_rank_factor::a);
    const std::string b_name = low_rank_name(stems[part], low_rank_factor::b);
    const tensor_record* a = changes.find(a_name);
    const tensor_record* b = changes.find(b_name);
    if (a == nullptr && b == nullptr) continue;
    const input_place place{changes.path().string(), a_name, {}};
    const bool whole = changes.manifest().low_rank && a != nullptr && b != nullptr && a->shape.size() == 2 && a->shape[0] > 0;
    if (!whole || (any && a->shape[0] != how.rank) || a->shape[1] != columns || b->shape != tensor_shape{rows, a->shape[0]}) {
      throw input_error(input_error_code::shape_mismatch, place,
                        "and its lora_B do not fit a matrix of " + std::to_string(rows) + " x " + std::to_string(columns) +
                            ", or differ in rank from those of other experts",
                        "choose the base that the adapter was trained on");
    }
    how.rank = a->shape[0];
    any = true;
    if constexpr (Weight::stacked) experts.push_back(static_cast<std::int32_t>(part));
    used(a_name);
    used(b_name);
  }
  if (any) make_low_rank(backend, w, how, std::move(experts), 0);
  if constexpr (takes_mixture<Weight>) any = attach_mixture(backend, key, w, changes, stems.front(), used) || any;
  if (!any) return;
  std::vector<float> host;
  for_each_factor(names, key, w, [&](const hf_piece& piece, auto factor_rows) {
    host.resize(static_cast<std::size_t>(factor_rows.size()));
    changes.read_floats(piece.name, std::span<float>(host));
    copy_in(backend, std::span<const float>(host), factor_rows);
  });
}
template <class Parameters>
void remove_factors(Parameters& parameters) {
  for_each_parameter(parameters, [](parameter_key, auto& w) { w.remove_factors(); });
}
}  // namespace detail

/// Replaces parameters of a loaded base model by an adapter's tensors, and puts its factors beside the matrices that they belong to. All of
/// the adapter is checked before the model is changed. Whether it was trained on this base a model does not know: open it by
/// `read_adapter(directory, base)`, or one of another model of the same shape goes in without a word.
/// @throws input_error naming the tensor: one that the model lacks, of another shape or element type, or damaged
template <class Model>
void apply_adapter(typename Model::backend_type& backend, Model& model, const adapter& changes) {
  changes.verify_digests();
  const std::vector<std::string> names = changes.names();
  std::set<std::string> unused(names.begin(), names.end());
  for_each_parameter(model.parameters, [&](parameter_key key, auto& w) {
    for_each_piece(model.config.names, key, w, [&](const hf_piece& piece, auto) {
      const tensor_record* record = changes.find(piece.name);
      if (record == nullptr) return;
      unused.erase(piece.name);
      const input_place place{changes.path().string(), piece.name, {}};
      if (record->shape != piece.shape) {
        throw input_error(input_error_code::shape_mismatch, place,
                          "has shape " + to_string(record->shape) + ", the model " + to_string(piece.shape),
                          "choose the base that the adapter was trained on");
      }
      if (record->type != model.config.storage) {
        throw input_error(
            input_error_code::dtype_mismatch, place,
            "holds " + std::string(safetensors_name(record->type)) + ", the model " + std::string(safetensors_name(model.config.storage)),
            "choose the base that the adapter was trained on");
      }
    });
  });
  for_each_buffer(model.parameters, [&](parameter_key key, const auto& b) {
    const std::string name = hf_pieces(model.config.names, key, {b.value.extent(0)}).front().name;
    const tensor_record* record = changes.find(name);
    if (record == nullptr) return;
    unused.erase(name);
    if (record->shape == tensor_shape{b.value.extent(0)} && record->type == dtype::float32) return;
    throw input_error(input_error_code::shape_mismatch, {changes.path().string(), name, {}},
                      "has shape " + to_string(record->shape) + " in " + std::string(safetensors_name(record->type)) + ", the model " +
                          std::to_string(b.value.extent(0)) + " numbers in F32",
                      "choose the base that the adapter was trained on");
  });
  try {
    for_each_parameter(model.parameters, [&](parameter_key key, auto& w) {
      if constexpr (std::remove_cvref_t<decltype(w)>::rank > 1) {
        w.remove_factors();
        detail::attach_factors(backend, model.config.names, key, w, changes, [&](const std::string& name) { unused.erase(name); });
      }
    });
  } catch (...) {
    detail::remove_factors(model.parameters);
    throw;
  }
  if (!unused.empty()) {
    detail::remove_factors(model.parameters);
    throw input_error(input_error_code::unknown_tensor, {changes.path().string(), *unused.begin(), {}}, "the model has no such tensor",
                      "choose the base that the adapter was trained on");
  }
  std::vector<float> host;
  for_each_parameter(model.parameters, [&](parameter_key key, auto& w) {
    for_each_piece(model.config.names, key, w, [&](const hf_piece& piece, auto rows) {
      if (changes.find(piece.name) == nullptr) return;
      host.resize(static_cast<std::size_t>(rows.size()));
      changes.read_floats(piece.name, std::span<float>(host));
      piece_in(backend, piece, std::span<const float>(host), rows);
    });
  });
  for_each_buffer(model.parameters, [&](parameter_key key, auto& b) {
    const std::string name = hf_pieces(model.config.names, key, {b.value.extent(0)}).front().name;
    if (changes.find(name) == nullptr) return;
    host.resize(static_cast<std::size_t>(b.value.size()));
    changes.read_floats(name, std::span<float>(host));
    backend.copy_in(std::span<const float>(host), b.value.view());
  });
}

/// Checkpoint names of frozen tensors of `model` whose values differ from `base` in at least one bit: must be none after training.
/// Finds a stray write, and memory that lost a bit, in the larger part of the model that no optimizer touches. @cost reads the base once
template <class Model>
[[nodiscard]] std::vector<std::string> moved_frozen_tensors(typename Model::backend_type& backend, const Model& model,
                                                            const model_directory& base) {
  std::vector<std::string> moved;
  std::vector<float> now;
  std::vector<float> before;
  for_each_parameter(model.parameters, [&](parameter_key key, const auto& w) {
    for_each_piece(model.config.names, key, w, [&](const hf_piece& piece, auto rows) {
      const bool trained = w.trained() && (piece.expert < 0 || std::binary_search(w.selected.begin(), w.selected.end(), piece.expert));
      if (trained) return;
      now.resize(static_cast<std::size_t>(rows.size()));
      before.resize(now.size());
      piece_out(backend, piece, rows, std::span<float>(now));
      base.read_floats(piece.name, std::span<float>(before));
      if (std::memcmp(now.data(), before.data(), now.size() * sizeof(float)) != 0) moved.push_back(piece.name);
    });
  });
  for_each_buffer(model.parameters, [&](parameter_key key, const auto& b) {
    if (b.moves) return;
    const std::string name = hf_pieces(model.config.names, key, {b.value.extent(0)}).front().name;
    now.resize(static_cast<std::size_t>(b.value.size()));
    before.resize(now.size());
    backend.copy_out(b.value.view(), std::span<float>(now));
    base.read_floats(name, std::span<float>(before));
    if (std::memcmp(now.data(), before.data(), now.size() * sizeof(float)) != 0) moved.push_back(name);
  });
  std::sort(moved.begin(), moved.end());
  return moved;
}

}  // namespace esft
