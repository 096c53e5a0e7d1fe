// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `trained_list`: what is done to all trained slices, in one go where the backend can, one slice after another elsewhere.

#include <esft/backend/unattended.hpp>
#include <esft/optim/compact_state.hpp>

#include <utility>
#include <vector>

namespace esft {

namespace detail {
template <class Backend>
struct update_list_of {
  struct type {};
};
template <has_update_list Backend>
struct update_list_of<Backend> {
  using type = typename Backend::update_list;
};
}  // namespace detail

/// The trained slices of a model, which stay where they are while the list lives.
template <moe_backend Backend>
class trained_list {
 public:
  trained_list(Backend& backend, std::vector<trained_slice<Backend>> slices)
      : slices_(std::move(slices)), native_(make_native(backend, slices_)) {}

  [[nodiscard]] std::span<const trained_slice<Backend>> slices() const { return slices_; }

  void clear_gradients(Backend& backend) const {
    if constexpr (has_update_list<Backend>) {
      backend.clear_gradients(native_);
    } else {
      for (const auto& slice : slices_) backend.fill(slice.gradient, accum_t<Backend>{});
    }
  }
  /// Of all gradients, in double.
  [[nodiscard]] double sum_of_squares(Backend& backend) const {
    if constexpr (has_update_list<Backend>) {
      return backend.sum_of_squares(native_);
    } else {
      double squares = 0;
      for (const auto& slice : slices_) squares += backend.sum_of_squares(slice.gradient);
      return squares;
    }
  }
  /// The same into numbers[squares], without a wait.
  void sum_of_squares(Backend& backend, view_t<Backend, double, 1> numbers) const
    requires has_unattended_steps<Backend>
  {
    backend.sum_of_squares(native_, numbers);
  }
  /// One AdamW update; the decay of `step` is that of the slices that decay.
  void adamw(Backend& backend, compact_state<Backend>& master, compact_state<Backend>& first_moment, compact_state<Backend>& second_moment,
             const adamw_step& step) const {
    if constexpr (has_update_list<Backend>) {
      backend.adamw(native_, master.all(), first_moment.all(), second_moment.all(), step);
    } else {
      for (std::size_t i = 0; i < slices_.size(); ++i) {
        adamw_step own = step;
        if (!slices_[i].decays) own.weight_decay = 0;
        backend.adamw(slices_[i].value, master[i], first_moment[i], second_moment[i], slices_[i].gradient, own);
      }
    }
  }

  /// The same where numbers allow it and at their rate, without a wait.
  void adamw(Backend& backend, compact_state<Backend>& master, compact_state<Backend>& first_moment, compact_state<Backend>& second_moment,
             const adamw_step& constants, double clip_norm, view_t<Backend, double, 1> numbers) const
    requires has_unattended_steps<Backend>
  {
    backend.adamw(native_, master.all(), first_moment.all(), second_moment.all(), constants, clip_norm, numbers);
  }

 private:
  using native_list = typename detail::update_list_of<Backend>::type;

  static native_list make_native([[maybe_unused]] Backend& backend, [[maybe_unused]] std::span<const trained_slice<Backend>> slices) {
    if constexpr (has_update_list<Backend>) {
      std::vector<update_slice<Backend>> list;
      for (const auto& slice : slices) list.push_back({slice.value, slice.gradient, slice.decays});
      return backend.make_update_list(list);
    } else {
      return {};
    }
  }

  std::vector<trained_slice<Backend>> slices_;
  [[no_unique_address]] native_list native_;
};

}  // namespace esft
