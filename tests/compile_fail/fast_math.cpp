// SPDX-License-Identifier: Apache-2.0
// expect: compile without -ffast-math
// flags: -ffast-math
// With -ffast-math the compiler may remove the checks for NaN that keep a bad step from changing weights.
#include <esft/core/config.hpp>
