// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Whether the tensors of a directory are those of a model: names and shapes, compared before memory is asked for.

#include <esft/io/model_directory.hpp>
#include <esft/model/hf_names.hpp>
#include <esft/model/parameter_layout.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// Tensors that published checkpoints have and a model needs not: they are not read, and merged models keep them as they are.
struct unread_tensors {
  std::vector<std::string> rotary;      ///< rates of rotary embedding, which config.json gives
  std::vector<std::string> tied_head;   ///< a copy of the embedding where the head is tied to it
  std::vector<std::string> prediction;  ///< of layers that predict further tokens

  /// One sentence for each kind that there is, for people.
  [[nodiscard]] std::vector<std::string> sentences() const {
    std::vector<std::string> all;
    const auto say = [&](const std::vector<std::string>& names, const std::string& why) {
      if (names.empty()) return;
      const std::string more = names.size() > 1 ? " and " + std::to_string(names.size() - 1) + " more" : "";
      all.push_back(names.front() + more + (names.size() > 1 ? " are" : " is") + " not read: " + why);
    };
    say(rotary, "the rates of rotary embedding follow from config.json");
    say(tied_head, "config.json ties the head to model.embed_tokens.weight, of which this is a copy, byte for byte");
    say(prediction, "layers that predict further tokens are neither run nor trained");
    return all;
  }
};

namespace detail {
/// Whether two tensors of a directory have the same type, shape and bytes.
[[nodiscard]] inline bool same_tensor(const model_directory& directory, const tensor_record& a, const tensor_record& b) {
  if (a.type != b.type || a.shape != b.shape) return false;
  constexpr std::uint64_t block = std::uint64_t{1} << 20U;
  std::vector<std::byte> of_a, of_b;
  const auto read = [&](const tensor_record& tensor, std::uint64_t at, std::uint64_t count, std::vector<std::byte>& out) {
    tensor_record part = tensor;
    part.begin = tensor.begin + at;
    part.end = part.begin + count;
    out.resize(static_cast<std::size_t>(count));
    directory.shard_of(tensor.name).read(part, out);
  };
  for (std::uint64_t at = 0; at < a.byte_size(); at += block) {
    const std::uint64_t count = std::min(block, a.byte_size() - at);
    read(a, at, count, of_a);
    read(b, at, count, of_b);
    if (of_a != of_b) return false;
  }
  return true;
}

[[noreturn]] inline void refuse_tensor(const model_directory& directory, const std::string& name, const std::string& why) {
  throw error(error_category::bad_input, directory.path().string() + ": tensor " + name + " " + why);
}
}  // namespace detail

/// Compares every name and shape with what the configuration asks for. Nothing is allocated for the model: a configuration that is larger
/// than its files is found here.
/// @throws error (bad input) naming the tensor when one is missing, has another shape, or is left over
template <backend Backend>
unread_tensors expect_tensors(const model_directory& directory, const decoder_config& config) {
  const std::vector<std::string> names = directory.names();
  std::set<std::string, std::less<>> unused(names.begin(), names.end());
  for (const parameter_shape& parameter : parameter_shapes<Backend>(config)) {
    for (const hf_piece& piece : hf_pieces(config.names, parameter.key, parameter.shape)) {
      const tensor_record* record = directory.find(piece.name);
      if (record == nullptr) {
        detail::refuse_tensor(directory, piece.name, "is missing: config.json asks for it with shape " + to_string(piece.shape));
      }
      if (record->shape != piece.shape) {
        detail::refuse_tensor(directory, piece.name,
                              "has shape " + to_string(record->shape) + ", config.json asks for " + to_string(piece.shape));
      }
      unused.erase(piece.name);
    }
  }
  unread_tensors unread;
  const auto take = [&](std::vector<std::string>& kind, const auto& belongs) {
    for (auto name = unused.begin(); name != unused.end();) {
      if (!belongs(*name)) {
        ++name;
        continue;
      }
      kind.push_back(*name);
      name = unused.erase(name);
    }
  };
  for (index layer = config.layers; layer < config.layers + config.prediction_layers; ++layer) {
    take(unread.prediction,
         [&](const std::string& name) { return name.starts_with("model.layers." + std::to_string(layer) + "."); });
  }
  take(unread.rotary, [](std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); });
  if (config.tied_head) take(unread.tied_head, [](std::string_view name) { return name == "lm_head.weight"; });
  for (const std::string& copy : unread.tied_head) {
    if (detail::same_tensor(directory, directory.at(copy), directory.at("model.embed_tokens.weight"))) continue;
    detail::refuse_tensor(directory, copy,
                          "differs from model.embed_tokens.weight, to which config.json ties it (tie_word_embeddings): set that to false "
                          "if the head is one of its own, or remove the tensor");
  }
  if (!unused.empty()) {
    detail::refuse_tensor(directory, *unused.begin(),
                          "and " + std::to_string(unused.size() - 1) +
                              " more belong to no parameter of this model: config.json and weights do not fit");
  }
  return unread;
}

}  // namespace esft
