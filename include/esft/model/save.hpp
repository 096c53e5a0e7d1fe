// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A model's tensors as sources for the safetensors writer: all of them, or exactly the trained ones (an adapter).

#include <esft/core/f16.hpp>
#include <esft/io/fused_sources.hpp>
#include <esft/io/safetensors.hpp>
#include <esft/model/decoder.hpp>
#include <esft/model/hf_names.hpp>

#include <algorithm>

namespace esft {

/// Which tensors to save: the model's own, without factors beside them; or what is trained, whole tensors, experts and factors.
enum class save_scope { everything, trained_only };

namespace detail {
template <class To, class Backend, class Rows>
void write_elements(Backend& backend, const hf_piece& piece, const Rows& rows, const byte_sink& sink) {
  std::vector<float> wide(static_cast<std::size_t>(rows.size()));
  piece_out(backend, piece, rows, std::span<float>(wide));
  std::vector<To> stored(wide.size());
  std::transform(wide.begin(), wide.end(), stored.begin(), [](float value) { return static_cast<To>(value); });
  sink(std::as_bytes(std::span<const To>(stored)));
}
}  // namespace detail

/// Sources under the checkpoint's own names, in its storage type; experts that the checkpoint stores together are one source where everything
/// is saved, and have names of their own in an adapter: see `expert_slices`. `backend` and `model` must outlive the write.
/// @throws error (bad input) for a storage type that is not float32, bfloat16 or float16
template <class Model>
[[nodiscard]] std::vector<tensor_source> tensor_sources(typename Model::backend_type& backend, const Model& model, save_scope scope) {
  const dtype storage = model.config.storage;
  if (storage != dtype::float32 && storage != dtype::bfloat16 && storage != dtype::float16) {
    throw error(error_category::bad_input, "the model's storage type is " + std::string(name_of(storage)) +
                                               ", and tensors are written in float32, bfloat16 or float16 only: choose one of these as " +
                                               "config.storage, or convert the checkpoint first");
  }
  std::vector<tensor_source> sources;
  for_each_parameter(model.parameters, [&](parameter_key key, const auto& w) {
    const auto add = [&](const hf_piece& piece, auto rows) {
      sources.push_back({piece.name, storage, piece.shape, [&backend, piece, rows, storage](const byte_sink& sink) {
                           if (storage == dtype::bfloat16) {
                             detail::write_elements<bf16>(backend, piece, rows, sink);
                           } else if (storage == dtype::float16) {
                             detail::write_elements<f16>(backend, piece, rows, sink);
                           } else {
                             detail::write_elements<float>(backend, piece, rows, sink);
                           }
                         }});
    };
    for_each_piece(model.config.names, key, w, [&](const hf_piece& piece, auto rows) {
      const bool trained = w.trained() && (piece.expert < 0 || std::binary_search(w.selected.begin(), w.selected.end(), piece.expert));
      if (scope == save_scope::everything || trained) add(piece, rows);
    });
    if (scope == save_scope::trained_only && w.factors_trained()) for_each_factor(model.config.names, key, w, add);
  });
  for_each_buffer(model.parameters, [&](parameter_key key, const auto& b) {
    if (scope == save_scope::trained_only && !b.moves) return;
    const auto values = b.value.view();
    const std::string name = hf_pieces(model.config.names, key, {values.extent(0)}).front().name;
    sources.push_back({name, dtype::float32, {values.extent(0)}, [&backend, values](const byte_sink& sink) {
                         std::vector<float> host(static_cast<std::size_t>(values.size()));
                         backend.copy_out(values, std::span<float>(host));
                         sink(std::as_bytes(std::span<const float>(host)));
                       }});
  });
  const auto& together = model.config.names.together;
  return scope == save_scope::everything && together ? fused_sources(sources, *together) : sources;
}

}  // namespace esft
