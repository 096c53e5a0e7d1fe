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

// What a GPU leaves open between two barriers must not show: the order of threads, warps and blocks, and when copies arrive.
TYPED_TEST(emulated_cuda, the_order_of_threads_and_copies_does_not_change_a_bit) {
  using detail::cuda::emulator::schedule;
  const std::vector<schedule> orders{{},
                                     {.reversed = true},
                                     {.warps_run_ahead = true, .copies_at_once = true},
                                     {.reversed = true, .warps_run_ahead = true}};
  schedule& order = detail::cuda::emulator::machine::instance().order;
  const int runs = static_cast<int>(orders.size());
  const auto turn = [&](int run) { order = orders[static_cast<std::size_t>(run)]; };
  check_cuda_bits<TypeParam>(runs, {70, 9, 67}, turn);
  check_cuda_bits<TypeParam>(runs, {66, 1, 64}, turn, "attention");
  for (const sizes s : {sizes{190, 1, 72}, sizes{100, 1, 136}}) check_cuda_bits<TypeParam>(runs, s, turn, "attention");  // many tiles of keys
  check_cuda_bits<TypeParam>(runs, {70, 8, 72}, turn, "grouped_linear", products_on_the_device);
  check_cuda_bits<TypeParam>(runs, {150, 136, 72}, turn, "grouped_linear", products_on_the_device);
  order = {};
}

}  // namespace
}  // namespace esft::test
