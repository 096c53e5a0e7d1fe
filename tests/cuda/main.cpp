// SPDX-License-Identifier: Apache-2.0
// Runs the tests where there is a device; elsewhere says SKIP, and why, with the exit code that CTest takes for it.
#include <esft/backends/cuda.hpp>
#include <esft/core/error.hpp>

#include <cstdio>
#include <string>

#include <gtest/gtest.h>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const bool needs_none = GTEST_FLAG_GET(list_tests) || GTEST_FLAG_GET(filter).find("without_a_device") != std::string::npos;
  if (!needs_none && esft::cuda_backend<float>::devices() == 0) {
    try {
      esft::cuda_backend<float> opened;
    } catch (const esft::device_error& why) {
      std::printf("SKIP: %s\n", why.what());
      return 77;
    }
  }
  return RUN_ALL_TESTS();
}
