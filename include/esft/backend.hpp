// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of backend/: the concepts of a compute backend, tensors, and the reference backend.

#include <esft/backend/backend.hpp>
#include <esft/backend/dlpack.hpp>
#include <esft/backend/reference_backend.hpp>
#include <esft/backend/tensor.hpp>
#include <esft/backend/unattended.hpp>
