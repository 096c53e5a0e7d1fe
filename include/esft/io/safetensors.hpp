// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// safetensors files: strict reader and atomic, streaming writer.

#include <esft/io/safetensors_reader.hpp>  // IWYU pragma: export
#include <esft/io/safetensors_writer.hpp>  // IWYU pragma: export
