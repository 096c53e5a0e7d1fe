// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `weight`: a parameter tensor with its role in the type, and a gradient that exists only while it is trained.

#include <esft/backend/backend.hpp>
#include <esft/core/trainable_set.hpp>

#include <numeric>
#include <vector>

namespace esft {

/// A parameter of a model. Rank 3 is a stack over the routed experts of a layer; of such a stack any subset may be trained,
/// and the gradient has one slice per trained expert, never one per expert.
template <backend Backend, std::size_t Rank, parameter_role Role>
struct weight {
  static constexpr parameter_role role = Role;
  static constexpr bool stacked = Rank == 3;
  using backend_type = Backend;

  tensor_t<Backend, value_t<Backend>, Rank> value;     ///< @shape [D], [N, K] or [E, N, K]; empty where the model has no such parameter
  tensor_t<Backend, accum_t<Backend>, Rank> gradient;  ///< empty while frozen; [S, N, K] for S trained experts of a stack
  std::vector<std::int32_t> selected;                  ///< trained experts of a stack, ascending

  [[nodiscard]] bool exists() const noexcept { return value.size() > 0; }
  [[nodiscard]] bool trained() const noexcept { return gradient.size() > 0; }

  /// Frees the gradient: the parameter is immutable from here on.
  void freeze() {
    gradient = {};
    selected.clear();
  }
  /// Makes the whole parameter trainable, with a zero gradient.
  void train(Backend& backend) {
    gradient = backend.template make_tensor<accum_t<Backend>>(value.shape());
    backend.fill(gradient.view(), accum_t<Backend>{});
    if constexpr (stacked) {
      selected.resize(static_cast<std::size_t>(value.extent(0)));
      std::iota(selected.begin(), selected.end(), 0);
    }
  }
  /// Makes the named experts of a stack trainable. @pre ascending, distinct, in [0, E)
  void train(Backend& backend, const std::vector<std::int32_t>& experts)
    requires stacked
  {
    freeze();
    if (experts.empty()) return;
    selected = experts;
    gradient = backend.template make_tensor<accum_t<Backend>>(
        extents<3>{static_cast<index>(experts.size()), value.extent(1), value.extent(2)});
    backend.fill(gradient.view(), accum_t<Backend>{});
  }
};

template <class T>
inline constexpr bool is_weight = false;
template <class Backend, std::size_t Rank, parameter_role Role>
inline constexpr bool is_weight<weight<Backend, Rank, Role>> = true;

/// Allocates the value of a weight, uninitialised.
template <class Backend, std::size_t Rank, parameter_role Role>
void allocate(Backend& backend, weight<Backend, Rank, Role>& parameter, extents<Rank> shape) {
  parameter.value = backend.template make_tensor<value_t<Backend>>(shape);
}

}  // namespace esft
