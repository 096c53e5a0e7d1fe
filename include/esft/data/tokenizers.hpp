// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The built-in tokenizers.

#include <esft/core/type_list.hpp>
#include <esft/data/tokenizer.hpp>
#include <esft/data/tokenizers/any_tokenizer.hpp>
#include <esft/data/tokenizers/bpe_tokenizer.hpp>
#include <esft/data/tokenizers/byte_tokenizer.hpp>

namespace esft {

using builtin_tokenizers = type_list<byte_tokenizer, bpe_tokenizer>;

}  // namespace esft
