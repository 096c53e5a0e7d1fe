// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `parameter_snapshot`: a host copy of all parameters, to go back to the base model between runs and to prove what changed.

#include <esft/model/decoder.hpp>

#include <algorithm>
#include <cstring>
#include <vector>

namespace esft {

/// Slices of a model that differ from a snapshot in at least one bit, and whether each was trained.
struct snapshot_difference {
  std::size_t trained_changed = 0;    ///< trained tensors or experts whose bits changed
  std::size_t trained_unchanged = 0;  ///< trained, but not one bit moved
  std::size_t frozen_changed = 0;     ///< must be 0
  std::size_t frozen_unchanged = 0;
};

/// Copy of a model's parameter values. @cost memory of one model in the element type of the backend
template <class Model>
class parameter_snapshot {
 public:
  using backend_type = typename Model::backend_type;

  parameter_snapshot(backend_type& backend, const Model& model) {
    for_each_parameter(model.parameters, [&](parameter_key, const auto& w) {
      auto& copy = values_.emplace_back(static_cast<std::size_t>(w.value.size()));
      backend.copy_out(w.elements(), std::span<value_t<backend_type>>(copy));
    });
    for_each_buffer(model.parameters, [&](parameter_key, const auto& b) { buffers_.push_back(numbers_of(backend, b)); });
  }

  /// Puts every value back, bit for bit, and takes low-rank factors away.
  void restore(backend_type& backend, Model& model) const {
    std::size_t i = 0;
    for_each_parameter(model.parameters, [&](parameter_key, auto& w) {
      backend.copy_in(std::span<const value_t<backend_type>>(values_[i++]), w.elements());
      w.remove_factors();
    });
    i = 0;
    for_each_buffer(model.parameters, [&](parameter_key, auto& b) {
      backend.copy_in(std::span<const accum_t<backend_type>>(buffers_[i++]), b.value.view());
    });
  }

  [[nodiscard]] snapshot_difference compare(backend_type& backend, const Model& model) const {
    snapshot_difference result;
    std::size_t i = 0;
    for_each_parameter(model.parameters, [&](parameter_key, const auto& w) {
      std::vector<value_t<backend_type>> now(values_[i].size());
      backend.copy_out(w.elements(), std::span<value_t<backend_type>>(now));
      const bool stacked = std::remove_cvref_t<decltype(w)>::stacked;
      const std::size_t parts = stacked ? static_cast<std::size_t>(w.value.extent(0)) : 1;
      const std::size_t elements = now.size() / parts;
      for (std::size_t part = 0; part < parts; ++part) {
        const bool changed = std::memcmp(now.data() + part * elements, values_[i].data() + part * elements, elements * sizeof now[0]) != 0;
        const bool trained = w.trained() && (!stacked || std::find(w.selected.begin(), w.selected.end(), static_cast<std::int32_t>(part)) !=
                                                             w.selected.end());
        ++(trained ? (changed ? result.trained_changed : result.trained_unchanged)
                   : (changed ? result.frozen_changed : result.frozen_unchanged));
      }
      ++i;
    });
    i = 0;
    for_each_buffer(model.parameters, [&](parameter_key, const auto& b) {
      const auto now = numbers_of(backend, b);
      const bool changed = std::memcmp(now.data(), buffers_[i++].data(), now.size() * sizeof now[0]) != 0;
      ++(b.moves ? (changed ? result.trained_changed : result.trained_unchanged)
                 : (changed ? result.frozen_changed : result.frozen_unchanged));
    });
    return result;
  }

 private:
  template <class Buffer>
  static std::vector<accum_t<backend_type>> numbers_of(backend_type& backend, const Buffer& b) {
    std::vector<accum_t<backend_type>> host(static_cast<std::size_t>(b.value.size()));
    backend.copy_out(b.value.view(), std::span<accum_t<backend_type>>(host));
    return host;
  }

  std::vector<std::vector<value_t<backend_type>>> values_;
  std::vector<std::vector<accum_t<backend_type>>> buffers_;
};

}  // namespace esft
