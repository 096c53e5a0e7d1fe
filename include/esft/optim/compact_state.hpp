// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `compact_state`: one accumulate-type value per trained element, stored back to back; frozen parameters have none.

#include <esft/optim/optimizer.hpp>

#include <vector>

namespace esft {

/// A flat tensor with one element per trained element, addressed by slice.
template <backend Backend>
class compact_state {
 public:
  compact_state(Backend& backend, std::span<const trained_slice<Backend>> slices) {
    index total = 0;
    for (const auto& slice : slices) {
      offsets_.push_back(total);
      total += slice.value.size();
    }
    offsets_.push_back(total);
    elements_ = backend.template make_tensor<accum_t<Backend>>(extents<1>{total});
    backend.fill(elements_.view(), accum_t<Backend>{});
  }

  /// State of slice `i`.
  [[nodiscard]] view_t<Backend, accum_t<Backend>, 1> operator[](std::size_t i) {
    return elements_.view().slice(offsets_[i], offsets_[i + 1]);
  }
  [[nodiscard]] view_t<Backend, accum_t<Backend>, 1> all() { return elements_.view(); }
  [[nodiscard]] index size() const { return elements_.size(); }

 private:
  tensor_t<Backend, accum_t<Backend>, 1> elements_;
  std::vector<index> offsets_;
};

}  // namespace esft
