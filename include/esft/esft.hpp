// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Everything that a trainer needs, from backends to plans. Reading and writing files (`esft/io.hpp`) and backends (`esft/backends/...`) are separate.

#include <esft/backend.hpp>
#include <esft/core.hpp>
#include <esft/data.hpp>
#include <esft/model.hpp>
#include <esft/moe.hpp>
#include <esft/nn.hpp>
#include <esft/optim.hpp>
#include <esft/peft.hpp>
#include <esft/relevance.hpp>
#include <esft/selection.hpp>
#include <esft/train.hpp>
