// SPDX-License-Identifier: Apache-2.0
// Which kernels run: a silent fall back to slower ones fails here.
#include <esft/backends/eigen.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include <gtest/gtest.h>

namespace esft::test {
namespace native_tests {

/// Whether the operating system lists a feature of this CPU; independent of how the backend asks.
bool cpu_lists(const std::string& feature) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (word == feature) return true;
    }
    return false;
  }
  return false;
}

TEST(native, the_fastest_kernels_of_this_cpu_run) {
  const bool wide = cpu_lists("avx512f") && cpu_lists("avx512bw") && cpu_lists("avx512dq") && cpu_lists("avx512vl");
  const std::string_view expected = wide ? "avx512" : cpu_lists("avx2") && cpu_lists("fma") ? "avx2" : "generic";
  if (expected == "generic") GTEST_SKIP() << "this CPU has neither AVX-512 nor AVX2";
  eigen_backend<float> backend(1);
  EXPECT_EQ(backend.isa(), expected);
  const std::string_view for_bf16 = !wide || !cpu_lists("avx512_bf16") ? expected : cpu_lists("amx_bf16") ? "amx" : "avx512_bf16";
  EXPECT_EQ(eigen_backend<bf16>(1).isa(), for_bf16);
}

TEST(native, an_older_instruction_set_can_be_chosen_and_an_unknown_one_cannot) {
  eigen_backend<float> backend(1);
  backend.use("generic");
  EXPECT_EQ(backend.isa(), "generic");
  EXPECT_THROW(backend.use("abacus"), contract_violation);
}

TEST(native, wrong_shapes_and_ids_are_refused) {
  eigen_backend<float> backend(1);
  auto a = backend.make_tensor<float>(extents<2>{3, 4});
  auto b = backend.make_tensor<float>(extents<2>{5, 4});
  auto y = backend.make_tensor<float>(extents<2>{3, 5});
  backend.fill(a.view(), 1);
  backend.fill(b.view(), 1);
  EXPECT_NO_THROW(backend.linear(std::as_const(a).view(), std::as_const(b).view(), y.view(), write_mode::overwrite));
  EXPECT_EQ(y.view()(2, 4), 4);
  EXPECT_THROW(backend.linear(std::as_const(b).view(), std::as_const(a).view(), y.view(), write_mode::overwrite), contract_violation);
  auto ids = make_host_tensor<std::int32_t, 1>({3});
  for (const std::int32_t bad : {-1, 5}) {
    ids.data()[0] = ids.data()[1] = 0;
    ids.data()[2] = bad;
    EXPECT_THROW(backend.embedding(std::as_const(ids).view(), std::as_const(b).view(), a.view()), contract_violation);
  }
}

TEST(native, large_tensors_reuse_memory_and_keep_their_alignment) {
  eigen_backend<float> backend(1);
  const void* first = nullptr;
  {
    auto t = backend.make_tensor<float>(extents<1>{100003});
    first = t.data();
  }
  auto again = backend.make_tensor<float>(extents<1>{100001});
  auto other = backend.make_tensor<float>(extents<1>{100001});
#if !defined(__SANITIZE_ADDRESS__)
  EXPECT_EQ(again.data(), first);
#endif
  EXPECT_NE(again.data(), other.data());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(other.data()) % 64, 0U);
}

TEST(native, size_classes_hold_what_they_are_asked_for_and_waste_at_most_a_quarter) {
  using detail::eigen::block_cache;
  for (std::size_t bytes = block_cache::least; bytes < (std::size_t{1} << 40); bytes += bytes / 7 + 1) {
    const std::size_t held = block_cache::size_of_class(block_cache::class_of(bytes));
    EXPECT_GE(held, bytes);
    EXPECT_LE(held, bytes + bytes / 4 + 64);
  }
  for (const std::size_t power : {17U, 20U, 33U})
    EXPECT_EQ(block_cache::size_of_class(block_cache::class_of(std::size_t{1} << power)), std::size_t{1} << power);
}

TEST(native, non_finite_logits_give_a_non_finite_loss) {
  eigen_backend<float> backend(1);
  auto logits = backend.make_tensor<float>(extents<2>{1, 20});
  auto labels = make_host_tensor<std::int32_t, 1>({1});
  labels.data()[0] = 3;
  backend.fill(logits.view(), 0.5F);
  EXPECT_NEAR(backend.cross_entropy(logits.view(), std::as_const(labels).view(), 1), std::log(20.0), 1e-6);
  backend.fill(logits.view(), 0.5F);
  logits.data()[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(backend.cross_entropy(logits.view(), std::as_const(labels).view(), 1)));
}

}  // namespace native_tests
}  // namespace esft::test
