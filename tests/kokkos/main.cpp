// SPDX-License-Identifier: Apache-2.0
// Kokkos is this program's, as it would be a user's: initialised once, after one look at what happens before.
#include "uninitialised.hpp"

#include <gtest/gtest.h>

bool esft::test::refused_before_initialize = false;

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (GTEST_FLAG_GET(list_tests)) return RUN_ALL_TESTS();  // without a start: a machine that builds for a GPU may have none
  try {
    const esft::kokkos_backend<> backend;
  } catch (const esft::usage_error& problem) {
    esft::test::refused_before_initialize = std::string(problem.what()).find("Kokkos::initialize()") != std::string::npos;
  }
  Kokkos::initialize(argc, argv);
  const int result = RUN_ALL_TESTS();
  Kokkos::finalize();
  return result;
}
