// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of `data/`: tokenizers, samples, packing, mixing, batches.

#include <esft/data/batch.hpp>
#include <esft/data/chat_template.hpp>
#include <esft/data/conversation.hpp>
#include <esft/data/mixing.hpp>
#include <esft/data/packing.hpp>
#include <esft/data/sample_writer.hpp>
#include <esft/data/token_source.hpp>
#include <esft/data/tokenizer.hpp>
#include <esft/data/tokenizers.hpp>
