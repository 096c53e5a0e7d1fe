// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of core/: the records and vocabulary that every other folder speaks. Reflection (core/reflect.hpp) is separate: it needs Boost.

#include <esft/core/config.hpp>
#include <esft/core/contract.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/error.hpp>
#include <esft/core/expert_names.hpp>
#include <esft/core/expert_records.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/core/f16.hpp>
#include <esft/core/forced_routes.hpp>
#include <esft/core/fused_layout.hpp>
#include <esft/core/int128.hpp>
#include <esft/core/low_rank.hpp>
#include <esft/core/low_rank_names.hpp>
#include <esft/core/query_key_norm.hpp>
#include <esft/core/ranking.hpp>
#include <esft/core/rng.hpp>
#include <esft/core/rotary_scaling.hpp>
#include <esft/core/router_kind.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/core/score_table.hpp>
#include <esft/core/shape.hpp>
#include <esft/core/step_report.hpp>
#include <esft/core/strong_index.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/core/tokenizer_record.hpp>
#include <esft/core/trainable_set.hpp>
#include <esft/core/type_list.hpp>
#include <esft/core/utf8.hpp>
