// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Rows of the tokens in the order in which routing sends them to the experts, as operands of grouped products.

#include <esft/moe/dispatch.hpp>

namespace esft::detail {

/// The rows of x that routing sends to the experts, as an operand: read through the plan where the backend can, a gathered copy elsewhere.
template <moe_backend Backend>
class routed_rows {
 public:
  routed_rows(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, const dispatch_plan<Backend>& plan, index active)
      : rows_{x, plan.row_slot.view(), active} {
    if constexpr (!has_gathering<Backend>) {
      copy_ = backend.template make_tensor<value_t<Backend>>(extents<2>{rows_.rows(), x.extent(1)});
      backend.gather(x, rows_.slot, active, copy_.view());
    }
  }
  [[nodiscard]] auto operator()() const {
    if constexpr (has_gathering<Backend>) {
      return rows_;
    } else {
      return copy_.view();
    }
  }

 private:
  gathered_t<Backend> rows_;
  tensor_t<Backend, value_t<Backend>, 2> copy_;
};

}  // namespace esft::detail
