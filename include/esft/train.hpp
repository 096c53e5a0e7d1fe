// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of train/: the training loop. What reads or writes files (run_directory.hpp, apply_adapter.hpp, dataset.hpp, ...) is
/// included by whoever needs it.

#include <esft/train/arm.hpp>
#include <esft/train/evaluation.hpp>
#include <esft/train/memory_estimate.hpp>
#include <esft/train/recipe.hpp>
#include <esft/train/scoring.hpp>
#include <esft/train/snapshot.hpp>
#include <esft/train/trainer.hpp>
#include <esft/train/unattended_steps.hpp>
