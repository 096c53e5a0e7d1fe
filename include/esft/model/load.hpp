// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Loads a decoder from a Hugging Face model directory. Every tensor must be there with the right shape, and none may be left over.

#include <esft/io/hf_config_json.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/decoder.hpp>
#include <esft/model/expected_tensors.hpp>
#include <esft/model/hf_names.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

namespace esft {

namespace detail {
/// Weights of 4 or 8 bits come with tensors of their own, which say by what the stored numbers are multiplied.
inline void refuse_quantised(const model_directory& directory) {
  for (const std::string& name : directory.names()) {
    const bool mxfp4 = name.find(".experts.") != std::string::npos && (name.ends_with("_blocks") || name.ends_with("_scales"));
    const bool fp8 = name.ends_with(".weight_scale_inv");
    if (!mxfp4 && !fp8) continue;
    throw error(error_category::bad_input, directory.path().string() + ": tensor " + name + " belongs to weights quantised to " +
                                               (mxfp4 ? "MXFP4" : "blocks of FP8") +
                                               ", which esft neither reads nor trains: use the bfloat16 checkpoint, or make one by loading "
                                               "this one dequantised in transformers and saving it in bfloat16");
  }
}
}  // namespace detail

/// The names of a family as this directory has them. Transformers 5 stores the experts of any family together, and then under the names
/// that most families have.
[[nodiscard]] inline checkpoint_names names_in(const model_directory& directory, checkpoint_names names) {
  if (names.together) return names;
  for (const safetensors_file& shard : directory.shards()) {
    for (const tensor_record& stored : shard.tensors()) {
      if (directory.slices_of(stored).empty()) continue;
      names.together = fused_layout::halves;
      names.experts = expert_name_styles.front();
      return names;
    }
  }
  return names;
}

/// Values that are in flight between a file and the backend at one time; a transposed matrix of an expert goes as a whole.
inline constexpr index load_block = index{1} << 20U;

namespace detail {
/// @pre the directory's tensors were compared with the model's
template <class Model>
void fill_parameters(typename Model::backend_type& backend, Model& model, const model_directory& directory) {
  std::vector<float> host;
  const auto read = [&](const hf_piece& piece, index first, index count) {
    host.resize(static_cast<std::size_t>(count));
    directory.read_floats(piece.name, static_cast<std::uint64_t>(first), std::span<float>(host));
    for (const float value : host) {
      if (!std::isfinite(value)) {
        refuse_tensor(directory, piece.name, "holds a NaN or an infinity: the checkpoint is damaged, fetch it again");
      }
    }
  };
  const checkpoint_names& names = model.config.names;
  for_each_parameter(model.parameters, [&](parameter_key key, auto& w) {
    for_each_piece(names, key, w, [&](const hf_piece& piece, auto rows) {
      const index columns = rows.count > 0 ? rows.size() / rows.count : 0;
      const index block = piece.transposed ? rows.count : std::max<index>(1, load_block / std::max<index>(1, columns));
      for (index first = 0; first < rows.count; first += block) {
        auto part = rows;
        part.first += first;
        part.count = std::min(block, rows.count - first);
        read(piece, first * columns, part.size());
        piece_in(backend, piece, std::span<const float>(host), part);
      }
    });
  });
  for_each_buffer(model.parameters, [&](parameter_key key, auto& b) {
    const hf_piece piece = hf_pieces(names, key, {b.value.extent(0)}).front();
    read(piece, 0, b.value.extent(0));
    backend.copy_in(std::span<const float>(host), b.value.view());
  });
}
}  // namespace detail

/// Element type of most of a checkpoint's tensors.
[[nodiscard]] inline dtype storage_type(const model_directory& directory) {
  std::map<dtype, std::size_t> votes;
  for (const std::string& name : directory.names()) ++votes[directory.at(name).type];
  dtype winner = dtype::float32;
  std::size_t most = 0;
  for (const auto& [type, count] : votes) {
    if (count > most) winner = type;
    most = std::max(most, count);
  }
  return winner;
}

/// The shape of the model that `directory` describes, its tensors' names and shapes compared with it; `unread` takes what it holds beside
/// them. No weight is read. @throws error (bad input) naming the tensor when one is missing, has another shape, or is left over
template <backend Backend>
[[nodiscard]] decoder_config checked_config(const model_directory& directory, unread_tensors* unread = nullptr) {
  detail::refuse_quantised(directory);
  decoder_config config = config_from_hf(read_hf_config(directory.path()), storage_type(directory));
  config.names = names_in(directory, config.names);
  unread_tensors found = expect_tensors<Backend>(directory, config);
  if (unread != nullptr) *unread = std::move(found);
  return config;
}

/// A decoder with the parameters of `directory`; `unread` takes what it holds beside them. Names and shapes are compared before the model
/// is allocated. @cost reads every byte once; host memory above the model itself: a block of `load_block` values, or one expert's matrix
/// @throws error (bad input) naming the tensor when one is missing, has another shape, is left over, or holds a NaN or infinity
template <transformer_backend Backend>
[[nodiscard]] decoder<Backend> load_decoder(Backend& backend, const model_directory& directory, unread_tensors* unread = nullptr) {
  decoder<Backend> model(backend, checked_config<Backend>(directory, unread));
  detail::fill_parameters(backend, model, directory);
  return model;
}

/// The same with a router of yours in place of the one that config.json describes. @pre it takes as many experts as the model's K
template <transformer_backend Backend, router<Backend> Router>
[[nodiscard]] decoder<Backend, Router> load_decoder(Backend& backend, const model_directory& directory, Router choose,
                                                    unread_tensors* unread = nullptr) {
  decoder<Backend, Router> model(backend, checked_config<Backend>(directory, unread), std::move(choose));
  detail::fill_parameters(backend, model, directory);
  return model;
}

}  // namespace esft
