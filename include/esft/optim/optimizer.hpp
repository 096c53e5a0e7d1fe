// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `trained_slice`: one contiguous trained piece of the model; the `optimizer` concept over a list of them.

#include <esft/backend/backend.hpp>
#include <esft/core/trainable_set.hpp>

#include <concepts>
#include <span>

namespace esft {

/// A contiguous run of trained elements: a whole tensor, or one expert of a stack.
template <class Backend>
struct trained_slice {
  parameter_key key;
  std::int32_t expert = -1;                         ///< expert of a stack, -1 for a whole tensor
  bool decays = true;                               ///< weight decay applies (false for norms and biases)
  view_t<Backend, value_t<Backend>, 1> value;       ///< working weight, in the order of its layout
  view_t<Backend, accum_t<Backend>, 1> gradient;    ///< in the same order, as is all state
  extents<2> shape{};                               ///< of the matrix; a vector is one column
  matrix_layout layout{};
};

/// An optimizer owns state for the trained slices and nothing else, and updates them in place.
/// For loops of your own, and for the law suite: `trainer`, the state that it writes and the tool take `adamw_optimizer` alone.
/// Laws: learning rate 0 changes nothing; state bytes = trained elements * state_bytes_per_element; two runs give the same bits.
template <class O, class Backend>
concept optimizer = backend<Backend> && requires(O& o, Backend& b, double learning_rate, double gradient_scale) {
  o.update(b, learning_rate, gradient_scale);
  { o.state_bytes() } -> std::convertible_to<std::int64_t>;
};

}  // namespace esft
