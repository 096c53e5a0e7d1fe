// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What main has seen before it called Kokkos::initialize.

#include <esft/backends/kokkos.hpp>
#include <esft/core/error.hpp>

#include <string>

namespace esft::test {
/// Whether a backend made before Kokkos::initialize was refused with words that name the way out.
extern bool refused_before_initialize;
}  // namespace esft::test
