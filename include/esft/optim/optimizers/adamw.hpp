// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// AdamW with float32 master weights and compact state. @source arXiv 1711.05101, algorithm 2

#include <esft/core/f16.hpp>
#include <esft/optim/trained_list.hpp>

#include <vector>

namespace esft {

/// Constants of AdamW. The betas are those of the official ESFT trainer.
/// @deviation that trainer decays by 0.1. Here nothing decays unless asked for: decay pulls trained weights to zero, not to the base, and
/// changes what no token reached, which a receipt would then no longer find (tests/optim/adamw.cpp)
struct adamw_options {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0;       ///< decoupled; not applied to norms
  bool round_to_bf16 = false;    ///< keep working weights on the bf16 grid of the checkpoint
  bool round_to_f16 = false;     ///< or on that of float16
};

namespace detail {
template <class Backend>
struct round_to_f16_element {
  view_t<Backend, value_t<Backend>, 1> weight;
  ESFT_HOST_DEVICE void operator()(index i) const {
    weight[i] = static_cast<value_t<Backend>>(static_cast<float>(f16(static_cast<float>(weight[i]))));
  }
};
}  // namespace detail

/// Master weight and two moments per trained element: 12 bytes in float, 16 with the gradient.
template <moe_backend Backend>
class adamw_optimizer {
 public:
  static constexpr std::string_view name = "adamw";
  static constexpr std::int64_t state_bytes_per_element = 3 * static_cast<std::int64_t>(sizeof(accum_t<Backend>));

  adamw_optimizer(Backend& backend, std::vector<trained_slice<Backend>> slices, adamw_options constants)
      : options(constants),
        trained(backend, std::move(slices)),
        master(backend, trained.slices()),
        first_moment(backend, trained.slices()),
        second_moment(backend, trained.slices()) {
    for (std::size_t i = 0; i < trained.slices().size(); ++i) widen(backend, trained.slices()[i].value, master[i]);
  }

  /// One update of every trained slice from its gradient times `gradient_scale`.
  void update(Backend& backend, double learning_rate, double gradient_scale) {
    ++steps;
    trained.adamw(backend, master, first_moment, second_moment, constants(learning_rate, gradient_scale));
    round_to_f16(backend);
  }
  /// One update as the numbers of the step say, which then also count it: whoever reads them sets `steps`.
  void update(Backend& backend, double clip_norm, view_t<Backend, double, 1> numbers)
    requires has_unattended_steps<Backend>
  {
    trained.adamw(backend, master, first_moment, second_moment, constants(0, 1), clip_norm, numbers);
    round_to_f16(backend);
  }
  /// Bytes of master weights and moments.
  [[nodiscard]] std::int64_t state_bytes() const { return state_bytes_per_element * master.size(); }
  [[nodiscard]] std::span<const trained_slice<Backend>> slices() const { return trained.slices(); }

  const adamw_options options;
  std::int64_t steps = 0;  ///< updates done, for the bias corrections
  trained_list<Backend> trained;
  compact_state<Backend> master, first_moment, second_moment;

  /// Sets the working weights from the master weights, as after an update. Used when a saved state is loaded.
  void restore_weights(Backend& backend) {
    std::vector<accum_t<Backend>> host;
    for (std::size_t i = 0; i < trained.slices().size(); ++i) {
      host.resize(static_cast<std::size_t>(trained.slices()[i].value.size()));
      backend.copy_out(master[i], std::span<accum_t<Backend>>(host));
      const dtype grid = options.round_to_bf16 ? dtype::bfloat16 : options.round_to_f16 ? dtype::float16 : dtype::float64;
      if (grid != dtype::float64) {
        for (auto& value : host) value = static_cast<accum_t<Backend>>(as_stored(static_cast<float>(value), grid));
      }
      backend.copy_in(std::span<const accum_t<Backend>>(host), trained.slices()[i].value);
    }
  }

 private:
  /// No backend rounds so by itself: few checkpoints have float16. Weights that an update left as they were are not changed.
  void round_to_f16(Backend& backend) {
    if (!options.round_to_f16) return;
    for (const auto& slice : trained.slices()) {
      backend.for_each(slice.value.size(), detail::round_to_f16_element<Backend>{slice.value});
    }
  }
  [[nodiscard]] adamw_step constants(double learning_rate, double gradient_scale) const {
    return {learning_rate, options.beta1, options.beta2, options.epsilon, options.weight_decay, steps, gradient_scale,
            options.round_to_bf16};
  }
  static void widen(Backend& backend, view_t<Backend, value_t<Backend>, 1> value, view_t<Backend, accum_t<Backend>, 1> out) {
    std::vector<accum_t<Backend>> host(static_cast<std::size_t>(value.size()));
    backend.copy_out(value, std::span<accum_t<Backend>>(host));
    backend.copy_in(std::span<const accum_t<Backend>>(host), out);
  }
};

}  // namespace esft
