// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of model/: the decoder and its parameters. Reading and writing checkpoints (model/load.hpp, model/save.hpp) is not part of it.

#include <esft/model/block.hpp>
#include <esft/model/config.hpp>
#include <esft/model/configured_router.hpp>
#include <esft/model/decoder.hpp>
#include <esft/model/hf_names.hpp>
#include <esft/model/parameters.hpp>
#include <esft/model/placed_batch.hpp>
