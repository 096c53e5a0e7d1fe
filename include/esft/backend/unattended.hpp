// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `has_unattended_steps`: backends that run a whole training step without the host, its numbers in their own memory.

#include <esft/backend/backend.hpp>

#include <concepts>
#include <vector>

namespace esft {

/// Where the numbers of a step lie in a tensor of `count` doubles.
struct step_numbers {
  static constexpr index loss_scale = 0;     ///< from the host: factor on the summed loss in the gradient
  static constexpr index learning_rate = 1;  ///< from the host
  static constexpr index loss = 2;           ///< sum of cross-entropy over labelled tokens @unit nats
  static constexpr index squares = 3;        ///< sum over all gradients
  static constexpr index updates = 4;        ///< of the optimizer, those of earlier steps included
  static constexpr index count = 5;
};

/// A backend on which the host need not wait inside a step, for `trainer`; `numbers` as in `step_numbers`:
/// - `cross_entropy(logits, labels, numbers)`: scales by numbers[loss_scale] and adds the sum to numbers[loss];
/// - `sum_of_squares(list, numbers)`: into numbers[squares];
/// - `adamw(list, master, m, v, step, clip_norm, numbers)`: nothing where loss or squares are not finite; else one more of numbers[updates],
///   at numbers[learning_rate], gradients scaled down to clip_norm unless that is 0. Of `step` only the constants count;
/// - `read_later(numbers)` begins a copy to the host, which `finish_reading` waits for, once;
/// - `capture(work)` records what a function queues, `replay(recording)` queues it again.
template <class B>
concept has_unattended_steps =
    transformer_backend<B> && has_update_list<B> &&
    requires(B& b, view_t<B, accum_t<B>, 2> logits, view_t<B, const std::int32_t, 1> labels, const typename B::update_list& list,
             view_t<B, accum_t<B>, 1> state, adamw_step step, view_t<B, double, 1> numbers, typename B::reading reading,
             typename B::recording recording, void (*work)()) {
      b.cross_entropy(logits, labels, numbers);
      b.sum_of_squares(list, numbers);
      b.adamw(list, state, state, state, step, 1.0, numbers);
      { b.read_later(numbers) } -> std::same_as<typename B::reading>;
      { b.finish_reading(reading) } -> std::same_as<std::vector<double>>;
      { b.capture(work) } -> std::same_as<typename B::recording>;
      b.replay(recording);
    };

}  // namespace esft
