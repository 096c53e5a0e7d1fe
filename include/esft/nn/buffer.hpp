// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `buffer`: numbers of a model that no gradient reaches, such as the bias on a router's choice.

#include <esft/backend/backend.hpp>
#include <esft/core/trainable_set.hpp>

namespace esft {

/// A vector of a checkpoint that belongs to a layer but is no parameter: it has no gradient, and no optimizer trains it. It is kept in the
/// accumulate type, because checkpoints store such numbers in float32 beside bf16 weights.
template <backend Backend, parameter_role Role>
struct buffer {
  static constexpr parameter_role role = Role;
  tensor_t<Backend, accum_t<Backend>, 1> value;  ///< empty where the model has none
  bool moves = false;  ///< steps change it by a rule of its own, so it is planned and saved like what is trained; else it is frozen
  [[nodiscard]] bool exists() const noexcept { return value.size() > 0; }
};

template <class T>
inline constexpr bool is_buffer = false;
template <class Backend, parameter_role Role>
inline constexpr bool is_buffer<buffer<Backend, Role>> = true;

}  // namespace esft
