// SPDX-License-Identifier: Apache-2.0
// DLPack in and out on the host: the same memory, given back once, and nothing taken that does not fit.
#include "dlpack_structures.hpp"

#include <esft/backend/dlpack.hpp>
#include <esft/backend/reference_backend.hpp>

#include <array>
#include <memory>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
static_assert(sizeof(DLManagedTensor) == sizeof(esft_test::dlpack::managed) && sizeof(DLTensor) == sizeof(esft_test::dlpack::tensor));
#endif

namespace backends_dlpack_tests {

namespace dlpack = esft_test::dlpack;

/// Another framework's [2, 3] tensor of floats.
struct foreign {
  std::array<float, 8> memory{-1, 1, 2, 3, 4, 5, 6, -1};
  std::array<std::int64_t, 2> shape{2, 3};
  std::array<std::int64_t, 2> strides{3, 1};
  int released = 0;
  dlpack::managed managed{{memory.data(), {dlpack::cpu, 0}, 2, {2, 32, 1}, shape.data(), strides.data(), sizeof(float)},
                          this,
                          [](dlpack::managed* self) { ++static_cast<foreign*>(self->manager_ctx)->released; }};
};

TEST(dlpack, a_foreign_tensor_is_seen_where_it_lies) {
  foreign theirs;
  const auto view = esft::view_of_dlpack<float, 2>(theirs.managed.dl_tensor);
  EXPECT_EQ(view.data(), theirs.memory.data() + 1) << "the byte offset counts";
  EXPECT_EQ(view.extent(1), 3);
  view(1, 2) = 60;
  EXPECT_EQ(theirs.memory[6], 60);
  EXPECT_EQ(theirs.released, 0);
  theirs.managed.dl_tensor.strides = nullptr;  // means row-major
  EXPECT_EQ((esft::view_of_dlpack<const float, 2>(theirs.managed.dl_tensor)(0, 1)), 2);
}

TEST(dlpack, a_tensor_that_was_taken_over_is_released_once) {
  foreign theirs;
  {
    auto ours = esft::tensor_from_dlpack<float, 2>(&theirs.managed);
    EXPECT_EQ(ours.data(), theirs.memory.data() + 1);
    auto moved = std::move(ours);
    EXPECT_EQ(theirs.released, 0);
  }
  EXPECT_EQ(theirs.released, 1);
}

TEST(dlpack, an_empty_tensor_is_released_too) {
  foreign theirs;
  theirs.shape = {0, 3};
  theirs.managed.dl_tensor.data = nullptr;
  theirs.managed.dl_tensor.byte_offset = 0;
  const auto ours = esft::tensor_from_dlpack<float, 2>(&theirs.managed);
  EXPECT_EQ(ours.size(), 0);
  EXPECT_EQ(theirs.released, 1);
}

TEST(dlpack, a_tensor_of_ours_goes_out_and_comes_back_as_the_same_memory) {
  esft::reference_backend<float> backend;
  auto ours = backend.make_tensor<esft::bf16>(esft::extents<3>{2, 3, 4});
  const void* memory = ours.data();
  auto* managed = esft::dlpack_of<dlpack::managed>(std::move(ours));
  const dlpack::tensor& out = managed->dl_tensor;
  EXPECT_EQ(out.data, memory);
  EXPECT_EQ(out.device.device_type, dlpack::cpu);
  EXPECT_EQ(out.dtype.code, 4);
  EXPECT_EQ(out.dtype.bits, 16);
  EXPECT_EQ(out.shape[2], 4);
  EXPECT_EQ(out.strides[0], 12);
  const auto back = esft::tensor_from_dlpack<esft::bf16, 3>(managed);
  EXPECT_EQ(back.data(), memory);
}

TEST(dlpack, a_lent_view_keeps_its_owner_alive_and_const_says_read_only) {
  auto owner = std::make_shared<esft::host_tensor<std::int32_t, 1>>(esft::make_host_tensor<std::int32_t, 1>({2}));
  const std::weak_ptr<void> watch = owner;
  auto* managed = esft::dlpack_of<dlpack::managed_versioned>(std::as_const(*owner).view(), owner);
  owner.reset();
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(managed->version.major, 1U);
  EXPECT_EQ(managed->flags, 1U);
  EXPECT_THROW(static_cast<void>(esft::tensor_from_dlpack<std::int32_t, 1>(managed)), esft::usage_error);
  EXPECT_FALSE(watch.expired()) << "what was refused still belongs to the caller";
  EXPECT_EQ((esft::view_of_dlpack<const std::int32_t, 1>(managed->dl_tensor).extent(0)), 2);
  managed->deleter(managed);
  EXPECT_TRUE(watch.expired());
}

TEST(dlpack, what_does_not_fit_is_refused_with_both_sides_named) {
  foreign theirs;
  dlpack::tensor& given = theirs.managed.dl_tensor;
  const dlpack::tensor good = given;
  const auto refused = [&](const std::string& mentioned) {
    try {
      static_cast<void>(esft::tensor_from_dlpack<float, 2>(&theirs.managed));
      ADD_FAILURE() << "accepted: " << mentioned;
    } catch (const esft::usage_error& problem) {
      EXPECT_NE(std::string(problem.what()).find(mentioned), std::string::npos) << problem.what();
    }
    EXPECT_EQ(theirs.released, 0);
    given = good;
    theirs.shape = {2, 3};
    theirs.strides = {3, 1};
  };
  given.device.device_type = dlpack::cuda;
  refused("device 2:0, wanted is 1:0");
  given.device.device_id = 1;
  refused("device 1:1");
  given.dtype = {0, 32, 1};
  refused("code 0, 32 bits, 1 lanes, wanted is float32");
  given.dtype = {4, 16, 1};
  refused("code 4, 16 bits");
  given.dtype.lanes = 4;
  refused("4 lanes");
  given.ndim = 3;
  refused("3 dimensions, wanted are 2");
  theirs.strides = {1, 2};
  refused("stride 2 in dimension 1, wanted is 1");
  theirs.strides = {4, 1};
  refused("stride 4 in dimension 0, wanted is 3");
  theirs.shape = {-2, 3};
  refused("impossible shape");
  given.byte_offset = 2;
  refused("not aligned");
  given.data = nullptr;
  refused("no memory");
  theirs.shape = {1, 3};
  theirs.strides = {77, 1};
  EXPECT_EQ((esft::tensor_from_dlpack<float, 2>(&theirs.managed).extent(0)), 1) << "the stride of one row says nothing";

  dlpack::managed_versioned later{{2, 0}, nullptr, nullptr, 0, good};
  EXPECT_THROW(static_cast<void>(esft::tensor_from_dlpack<float, 2>(&later)), esft::usage_error);
}

}  // namespace backends_dlpack_tests
