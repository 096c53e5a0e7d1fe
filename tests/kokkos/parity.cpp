// SPDX-License-Identifier: Apache-2.0
// Every op of the Kokkos backend against the reference backend in double, its gradients, its exact sums, and the same bits twice.
#include "../backends/parity.hpp"

#include <esft/backends/kokkos.hpp>

#include <gtest/gtest.h>

namespace esft::test {
namespace {

template <class T>
using backend_of = kokkos_backend<Kokkos::DefaultExecutionSpace, T>;

/// Odd sizes, and some that fill several tiles.
std::vector<sizes> shapes() {
  std::vector<sizes> result = odd_shapes();
  result.insert(result.begin(), {{230, 140, 300}, {400, 64, 32}});
  return result;
}

template <class T>
class kokkos : public testing::Test {};
using storage_types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(kokkos, storage_types);

TYPED_TEST(kokkos, every_op_matches_the_reference_in_double) {
  backend_of<TypeParam> backend;
  check_parity(backend, {shapes()});
}

TYPED_TEST(kokkos, small_integers_are_exact) {
  backend_of<TypeParam> backend;
  check_integers(backend, {shapes()});
}

/// The digest goes to the report (--gtest_output): runs with other numbers of threads must give the same one (threads.cmake).
TYPED_TEST(kokkos, two_runs_give_the_same_bits) {
  backend_of<TypeParam> backend;
  const std::uint64_t digest = check_same_bits(backend, {{{70, 9, 67}, {500, 40, 130}}}, 2, [](int) {});
  this->RecordProperty("digest", std::to_string(digest));
  this->RecordProperty("threads", std::to_string(backend.instance().concurrency()));
}

TEST(kokkos_gradients, agree_with_central_differences) {
  backend_of<double> in_double;
  check_gradients(in_double);
  backend_of<float> in_float;
  check_gradients(in_float);
}

TEST(kokkos_gradients, planted_bugs_are_found) {
  backend_of<double> backend;
  EXPECT_GE(find_planted_bugs(backend, double_differences, 0.001), 20);
}

}  // namespace
}  // namespace esft::test
