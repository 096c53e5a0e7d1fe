// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of optim/: optimizers with compact state, and learning-rate schedules.

#include <esft/optim/compact_state.hpp>
#include <esft/optim/optimizer.hpp>
#include <esft/optim/optimizers.hpp>
#include <esft/optim/optimizers/adamw.hpp>
#include <esft/optim/schedule.hpp>
#include <esft/optim/trained_list.hpp>
