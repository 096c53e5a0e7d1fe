// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `builtin_optimizers`: the optimizers that the law suite runs on.

#include <esft/core/type_list.hpp>
#include <esft/optim/optimizers/adamw.hpp>

namespace esft {

/// Every optimizer of this library, for one backend. `trainer` is built on AdamW; another one is for a loop of one's own.
template <moe_backend Backend>
using builtin_optimizers = type_list<adamw_optimizer<Backend>>;

}  // namespace esft
