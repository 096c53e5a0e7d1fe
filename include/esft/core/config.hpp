// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Compile-time facts that every header relies on: version, attributes, and the guards against flags that take checks away.

#define ESFT_VERSION_MAJOR 0
#define ESFT_VERSION_MINOR 1
#define ESFT_VERSION_PATCH 0
#define ESFT_VERSION_STRING "0.1.0"

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "esft: compile without -ffast-math / -ffinite-math-only: the NaN guards of the training step would be removed."
#endif
#if !defined(__cpp_exceptions)
#error "esft: compile without -fno-exceptions: what cannot be done is reported by exceptions, and nothing else would stop a wrong run."
#endif

/// Marks plain arithmetic that a device compiler may also compile for the device.
#if defined(__CUDACC__) || defined(__HIPCC__)
#define ESFT_HOST_DEVICE __host__ __device__
#else
#define ESFT_HOST_DEVICE
#endif
