// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The layer that is measured, for a comparison with programs in other languages.

#include "shapes.hpp"

namespace esft::bench {

/// Runs the layer of a case once in float, forward and backward, and writes to a file, row-major floats one after the other:
/// x [T, D], dy [T, D], router [E, D], gate_up [E, 2I, D], down [E, D, I], y [T, D], dx [T, D]. @throws std::runtime_error where it cannot
void dump_layer(const bench_case& c, const char* path);

}  // namespace esft::bench
