// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of train/: the training loop.

#include <esft/train/evaluation.hpp>
#include <esft/train/trainer.hpp>
