// SPDX-License-Identifier: Apache-2.0
// Every op of the GPU backend, run by the emulator, against the reference backend in double.
#include "../cuda/parity.hpp"

#include <esft/backends/cuda/emulator.hpp>

#include <gtest/gtest.h>

namespace esft::test {
namespace {

template <class T>
class emulated_cuda : public testing::Test {};
using storage_types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(emulated_cuda, storage_types);

TYPED_TEST(emulated_cuda, every_op_matches_the_reference_in_double) { check_cuda_parity<TypeParam>(odd_shapes()); }

TYPED_TEST(emulated_cuda, heads_that_tensor_cores_take_match_the_reference_in_double) {
  check_cuda_parity<TypeParam>(tensor_core_heads(), "attention");
}

TEST(emulated_cuda_gradients, agree_with_central_differences) {
  cuda_backend<float> backend;
  check_gradients(backend);
}

TYPED_TEST(emulated_cuda, small_integers_are_exact) { check_cuda_integers<TypeParam>(odd_shapes()); }

TYPED_TEST(emulated_cuda, products_in_one_call_are_those_of_one_after_another_wherever_rows_begin) {
  for (const auto& shapes : {odd_shapes(), unaligned_products()}) {
    check_cuda_parity<TypeParam>(shapes, "grouped_linear", products_together);
    check_cuda_integers<TypeParam>(shapes, "grouped_linear", products_together);
  }
}

TYPED_TEST(emulated_cuda, grouped_products_need_no_sizes_on_the_host) {
  for (const auto& shapes : {odd_shapes(), tensor_core_products()}) {
    check_cuda_parity<TypeParam>(shapes, "grouped_linear", products_on_the_device);
    check_cuda_integers<TypeParam>(shapes, "grouped_linear", products_on_the_device);
  }
}

// What a GPU leaves open, the order of the threads between two barriers, must not show.
TYPED_TEST(emulated_cuda, the_order_of_threads_and_blocks_does_not_change_a_bit) {
  bool& reversed = detail::cuda::emulator::machine::instance().reversed;
  const auto turn = [&](int run) { reversed = run == 1; };
  check_cuda_bits<TypeParam>({70, 9, 67}, turn);
  check_cuda_bits<TypeParam>({66, 1, 64}, turn, "attention");
  check_cuda_bits<TypeParam>({70, 8, 72}, turn, "grouped_linear", products_on_the_device);
  reversed = false;
}

}  // namespace
}  // namespace esft::test
