// SPDX-License-Identifier: Apache-2.0
// Every op of the GPU backend on a GPU against the reference backend in double.
#include "parity.hpp"

namespace esft::test {
namespace {

template <class T>
class cuda : public testing::Test {};
using storage_types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(cuda, storage_types);

TYPED_TEST(cuda, every_op_matches_the_reference_in_double) { check_cuda_parity<TypeParam>(odd_shapes()); }

TYPED_TEST(cuda, heads_that_tensor_cores_take_match_the_reference_in_double) {
  std::vector<sizes> shapes = tensor_core_heads();
  const std::vector<sizes> more{{64, 1, 64}, {131, 1, 16}, {1000, 1, 64}, {700, 1, 128}, {300, 1, 192}, {300, 1, 256}};
  shapes.insert(shapes.end(), more.begin(), more.end());
  check_cuda_parity<TypeParam>(shapes, "attention");
}

TEST(cuda_gradients, agree_with_central_differences) {
  cuda_backend<float> backend;
  check_gradients(backend);
}

TEST(cuda_gradients, planted_bugs_are_found) {
  cuda_backend<float> backend;
  EXPECT_GE(find_planted_bugs(backend, float_differences, 0.05), 20);
}

TYPED_TEST(cuda, small_integers_are_exact) { check_cuda_integers<TypeParam>(odd_shapes()); }

TYPED_TEST(cuda, products_in_one_call_are_those_of_one_after_another_wherever_rows_begin) {
  for (const auto& shapes : {odd_shapes(), unaligned_products()}) {
    check_cuda_parity<TypeParam>(shapes, "grouped_linear", products_together);
    check_cuda_integers<TypeParam>(shapes, "grouped_linear", products_together);
  }
}

TYPED_TEST(cuda, grouped_products_need_no_sizes_on_the_host) {
  std::vector<sizes> more = tensor_core_products();
  more.push_back({520, 264, 328});
  for (const auto& shapes : {odd_shapes(), more}) {
    check_cuda_parity<TypeParam>(shapes, "grouped_linear", products_on_the_device);
    check_cuda_integers<TypeParam>(shapes, "grouped_linear", products_on_the_device);
  }
}

TYPED_TEST(cuda, two_runs_give_the_same_bits) {
  for (const sizes s : {sizes{70, 9, 67}, sizes{700, 40, 130}}) {
    check_cuda_bits<TypeParam>(3, s, [](int) {});
  }
  check_cuda_bits<TypeParam>(3, {1500, 1, 128}, [](int) {}, "attention");
}

}  // namespace
}  // namespace esft::test
