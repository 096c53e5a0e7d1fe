// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The weights of the shape under measurement: made at first use, shared by all benchmarks, freed when another shape comes.

#include "baselines/expert_loop.hpp"
#include "shapes.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/moe/layer.hpp>

#include <memory>

namespace esft::bench {

template <class T>
using layer_parameters = moe_parameters<eigen_backend<T>>;

/// Random weights of one layer as the library holds them. No shared experts.
template <class T>
layer_parameters<T>& layer_weights(const layer_shape& shape);

enum class matrix { gate_up, down };
enum class baseline { eigen, onednn, openblas };

/// The same experts (other random values) inside another library. Null where that library is absent or has no products of this type.
expert_loop* baseline_weights(const layer_shape& shape, baseline library, element type, matrix which);
/// The row-major weights that the baselines were made from. @shape [E, 2I, D], [E, D, I]
const void* row_major_weights(const layer_shape& shape, element type, matrix which);

}  // namespace esft::bench
