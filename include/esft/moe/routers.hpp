// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The built-in routers. One line here gives a router its law suite and its row in `esft list routers`.

#include <esft/core/type_list.hpp>
#include <esft/moe/routers/expert_choice.hpp>
#include <esft/moe/routers/group_limited.hpp>
#include <esft/moe/routers/grouped_experts.hpp>
#include <esft/moe/routers/gshard_top2.hpp>
#include <esft/moe/routers/null_experts.hpp>
#include <esft/moe/routers/sigmoid_topk.hpp>
#include <esft/moe/routers/softmax_topk.hpp>
#include <esft/moe/routers/switch_top1.hpp>

namespace esft {

using builtin_routers = type_list<softmax_topk_router, group_limited_router, sigmoid_topk_router, switch_top1_router, gshard_top2_router,
                                  null_experts_router, expert_choice_router, grouped_experts_router>;

}  // namespace esft
