// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The way back from `expert_slices`: sources of each expert's tensors become sources of tensors that hold all experts of a layer.

#include <esft/core/contract.hpp>
#include <esft/io/expert_slices.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/safetensors_writer.hpp>

#include <charconv>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

namespace detail {
/// Where an expert's tensor goes: into which fused tensor, behind which others.
struct slice_place {
  std::string fused;
  std::size_t expert = 0;
  std::size_t part = 0;  ///< of the expert's: gate before up
};
/// @return an empty name where the tensor is not an expert's
inline slice_place place_of_slice(std::string_view name, fused_layout layout) {
  constexpr std::string_view mark = ".experts.";
  const std::size_t at = name.find(mark);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = name.substr(at + mark.size());
  slice_place place;
  const auto [end, problem] = std::from_chars(rest.data(), rest.data() + rest.size(), place.expert);
  const auto digits = static_cast<std::size_t>(end - rest.data());
  if (problem != std::errc{} || digits >= rest.size()) return {};
  std::string part(rest.substr(digits + 1));
  if (layout == fused_layout::halves) {
    place.part = part == "up_proj.weight" ? 1 : 0;
    part = part == "down_proj.weight" ? "down_proj" : "gate_up_proj";
  }
  place.fused = std::string(name.substr(0, at + mark.size())) + part;
  return place;
}
}  // namespace detail

/// A tensor as a shard stores it, made of what `of(record)` gives: for it, or for the part of each expert, which then follow each other.
template <class Of>
tensor_source stored_source(const model_directory& model, const tensor_record& stored, Of&& of) {
  const std::span<const tensor_record> slices = model.slices_of(stored);
  if (slices.empty()) return of(stored);
  std::vector<tensor_source> parts;
  for (const tensor_record& slice : slices) parts.push_back(of(slice));
  return {stored.name, stored.type, stored.shape, [parts = std::move(parts)](const byte_sink& sink) {
            for (const tensor_source& part : parts) part.write(sink);
          }};
}

/// Sources as a checkpoint of this layout has them; others than experts' pass through. @pre every expert's tensors are there
inline std::vector<tensor_source> fused_sources(std::span<const tensor_source> sources, fused_layout layout) {
  std::vector<tensor_source> result;
  std::map<std::string, std::map<std::pair<std::size_t, std::size_t>, tensor_source>> groups;
  for (const tensor_source& source : sources) {
    const detail::slice_place place = detail::place_of_slice(source.name, layout);
    if (place.fused.empty()) {
      result.push_back(source);
    } else {
      groups[place.fused][{place.expert, place.part}] = source;
    }
  }
  for (auto& [name, slices] : groups) {
    const tensor_source& first = slices.begin()->second;
    const std::size_t experts = slices.rbegin()->first.first + 1;
    ESFT_EXPECTS(slices.size() % experts == 0, "every expert of a layer is there");
    tensor_shape shape = first.shape;
    shape.front() *= static_cast<index>(slices.size() / experts);
    shape.insert(shape.begin(), static_cast<index>(experts));
    std::vector<tensor_source> parts;
    for (auto& [place, slice] : slices) parts.push_back(std::move(slice));
    const dtype type = parts.front().type;
    result.push_back({name, type, std::move(shape), [parts = std::move(parts)](const byte_sink& sink) {
                        for (const tensor_source& part : parts) part.write(sink);
                      }});
  }
  return result;
}

}  // namespace esft
