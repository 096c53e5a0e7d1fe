// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// DLPack on the GPU backend: device memory goes out and comes back as itself, and never as host memory.

#include "dlpack_structures.hpp"

#include <esft/backends/cuda/dlpack.hpp>
#include <esft/core/error.hpp>

#include <array>
#include <span>
#include <utility>

#include <gtest/gtest.h>

namespace cuda_dlpack_tests {

namespace dlpack = esft_test::dlpack;

TEST(cuda_dlpack, device_memory_goes_out_and_comes_back_as_itself) {
  esft::cuda_backend<float> backend;
  auto ours = backend.make_tensor<float>(esft::extents<2>{2, 3});
  const std::array<float, 6> numbers{1, 2, 3, 4, 5, 6};
  backend.copy_in(std::span<const float>(numbers), ours.view());
  const void* memory = ours.data();
  auto* managed = esft::dlpack_of<dlpack::managed>(std::move(ours));
  EXPECT_EQ(managed->dl_tensor.device.device_type, dlpack::cuda);
  EXPECT_EQ(managed->dl_tensor.data, memory);
  EXPECT_THROW(static_cast<void>(esft::view_of_dlpack<float, 2>(managed->dl_tensor)), esft::usage_error) << "device memory as host memory";
  EXPECT_THROW(static_cast<void>(esft::view_of_dlpack<float, 2, esft::cuda_space>(managed->dl_tensor, 1)), esft::usage_error)
      << "another GPU";
  auto back = esft::tensor_from_dlpack<float, 2, esft::cuda_space>(managed);
  EXPECT_EQ(back.data(), memory);
  std::array<float, 6> read{};
  backend.copy_out(std::as_const(back).view(), std::span<float>(read));
  EXPECT_EQ(read, numbers);
}

}  // namespace cuda_dlpack_tests
