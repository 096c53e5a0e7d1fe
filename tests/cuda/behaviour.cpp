// SPDX-License-Identifier: Apache-2.0
// What the GPU backend promises besides numbers, training included, on a GPU; and what a machine without one is told.
#include "training.hpp"

namespace esft::test {
namespace {

TEST(cuda_without_a_device, is_refused_with_the_reason_and_the_way_out) {
  const int devices = cuda_backend<float>::devices();
  try {
    cuda_backend<float> backend({.device = devices});  // one more than there are
    FAIL() << "device " << devices << " was opened";
  } catch (const device_error& failure) {
    const std::string text = failure.what();
    EXPECT_NE(text.find("cuda: no device"), text.npos) << text;
    EXPECT_NE(text.find("eigen_backend in a program"), text.npos) << text;
    EXPECT_NE(text.find("--backend eigen"), text.npos) << text;
  }
}

TEST_F(cuda_behaviour, more_memory_than_there_is_is_refused_and_less_is_given) {
  EXPECT_THROW(static_cast<void>(backend->make_tensor<float>(extents<1>{index{1} << 44})), device_error);
  EXPECT_NO_THROW(static_cast<void>(backend->make_tensor<float>(extents<1>{index{1} << 20})));
  backend->synchronise();
}

TEST_F(cuda_behaviour, whole_steps_of_bf16_are_queued_far_ahead_and_recorded_to_the_same_bits) {
  check_recorded_steps<float>({0, 5});
  check_recorded_steps<bf16>({0, 1, 5});
}

}  // namespace
}  // namespace esft::test
