// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Compile-time facts that every header relies on: version, attributes, and the guard against fast-math.

#define ESFT_VERSION_MAJOR 0
#define ESFT_VERSION_MINOR 1
#define ESFT_VERSION_PATCH 0
#define ESFT_VERSION_STRING "0.1.0"

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "esft: compile without -ffast-math / -ffinite-math-only: the NaN guards of the training step would be removed."
#endif

/// Marks plain arithmetic that a device compiler may also compile for the device.
#if defined(__CUDACC__) || defined(__HIPCC__)
#define ESFT_HOST_DEVICE __host__ __device__
#else
#define ESFT_HOST_DEVICE
#endif
