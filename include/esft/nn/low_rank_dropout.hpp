// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Dropout before the low-rank factors: a mask that is a pure function of (seed, matrix, draw, row, column), so it is never stored.

#include <esft/core/rng.hpp>
#include <esft/nn/weight.hpp>

namespace esft::detail {

/// Which elements of a row are kept. Two elements share one draw of 64 bits.
struct dropout_mask {
  counter_rng rng;
  std::uint64_t threshold;  ///< share of dropped elements * 2^32
  double kept;              ///< factor on what is kept: 1 / (1 - share)

  ESFT_HOST_DEVICE double operator()(index row, index column, index columns) const {
    const std::uint64_t pair = static_cast<std::uint64_t>(row) * static_cast<std::uint64_t>((columns + 1) / 2);
    const std::uint64_t both = rng.bits(pair + static_cast<std::uint64_t>(column) / 2);
    const std::uint64_t half = column % 2 == 0 ? both >> 32U : both & 0xffffffffU;
    return half < threshold ? 0.0 : kept;
  }
};

/// Where the rows of an operand come from. A routed row has the mask of its slot, wherever routing sorts it; one
/// without a slot is left alone.
template <class Backend>
struct input_rows {
  view_t<Backend, const value_t<Backend>, 2> x;
  view_t<Backend, const std::int32_t, 1> slot{};  ///< of each row; empty: row r is slot r
  index active = 0;                               ///< row r is x[slot[r] / active]; 0: it is x[r]
  index first = 0;                                ///< slot of row 0 where x is a part of a longer operand

  [[nodiscard]] index rows() const { return slot.size() > 0 ? slot.size() : x.extent(0); }
  [[nodiscard]] ESFT_HOST_DEVICE index place(index r) const { return slot.size() > 0 ? slot[r] : first + r; }
  [[nodiscard]] ESFT_HOST_DEVICE index source(index r) const { return active > 0 ? slot[r] / active : r; }
};

template <class Backend>
struct drop_row {
  input_rows<Backend> from;
  dropout_mask mask;
  view_t<Backend, value_t<Backend>, 2> out;
  ESFT_HOST_DEVICE void operator()(index r) const {
    using A = accum_t<Backend>;
    if (from.place(r) == no_expert) return;
    const index columns = out.extent(1);
    for (index c = 0; c < columns; ++c) {
      const A factor = static_cast<A>(mask(from.place(r), c, columns));
      out(r, c) = static_cast<value_t<Backend>>(factor * static_cast<A>(from.x(from.source(r), c)));
    }
  }
};
template <class Backend>
struct add_masked_row {
  input_rows<Backend> from;
  dropout_mask mask;
  view_t<Backend, const value_t<Backend>, 2> through;
  view_t<Backend, value_t<Backend>, 2> dx;
  ESFT_HOST_DEVICE void operator()(index r) const {
    using A = accum_t<Backend>;
    if (from.place(r) == no_expert) return;
    const index columns = dx.extent(1);
    for (index c = 0; c < columns; ++c) {
      const A factor = static_cast<A>(mask(from.place(r), c, columns));
      dx(r, c) = static_cast<value_t<Backend>>(static_cast<A>(dx(r, c)) + factor * static_cast<A>(through(r, c)));
    }
  }
};

/// Whether this pass drops anything, and what.
template <class Pair>
bool drops(const Pair& f) {
  return f.draw.has_value() && f.how.dropout > 0;
}
template <class Pair>
dropout_mask mask_of(const Pair& f) {
  return {counter_rng(f.how.seed, rng_stream::dropout, (f.stream << 40U) + f.draw.value_or(0)),
          static_cast<std::uint64_t>(f.how.dropout * 0x1p32), 1.0 / (1.0 - f.how.dropout)};
}

/// dx += the gradient of the masked rows, through the mask.
template <class Backend, class Pair>
void add_masked(Backend& backend, const input_rows<Backend>& from, const Pair& f, view_t<Backend, const value_t<Backend>, 2> through,
                view_t<Backend, value_t<Backend>, 2> dx) {
  backend.for_each(dx.extent(0), add_masked_row<Backend>{from, mask_of(f), through, dx});
}

/// What A sees of its input: the rows themselves, or in a training pass with dropout a masked copy.
template <class Backend>
class dropped_input {
 public:
  template <class Pair>
  dropped_input(Backend& backend, const input_rows<Backend>& from, const Pair& f) : from_(from), dropped_(drops(f)) {
    if (!dropped_) return;
    copy_ = backend.template make_tensor<value_t<Backend>>(extents<2>{from_.rows(), from_.x.extent(1)});
    backend.for_each(from_.rows(), drop_row<Backend>{from_, mask_of(f), copy_.view()});
  }

  [[nodiscard]] const input_rows<Backend>& from() const noexcept { return from_; }
  /// Whether the rows are not in memory as they are wanted: they are to be read through the routing.
  [[nodiscard]] bool gathered() const noexcept { return !dropped_ && from_.active > 0; }
  /// The rows. @pre not gathered
  [[nodiscard]] view_t<Backend, const value_t<Backend>, 2> operator()() const noexcept {
    return dropped_ ? std::as_const(copy_).view() : from_.x;
  }

 private:
  input_rows<Backend> from_;
  bool dropped_;
  tensor_t<Backend, value_t<Backend>, 2> copy_;
};

}  // namespace esft::detail
