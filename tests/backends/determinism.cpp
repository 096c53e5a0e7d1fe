// SPDX-License-Identifier: Apache-2.0
// The same bits from every number of threads and from every run, on buffers that held something else before.
#include "ops.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/isa.hpp>

#include <bit>

#include <gtest/gtest.h>

namespace esft::test {
namespace determinism_tests {

/// Equal bits; a NaN equals the same NaN.
bool same_bits(const outputs& a, const outputs& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < a[i].values.size(); ++j) {
      if (std::bit_cast<std::uint64_t>(a[i].values[j]) != std::bit_cast<std::uint64_t>(b[i].values[j])) return false;
    }
  }
  return a.size() == b.size();
}

template <class T>
class determinism : public testing::Test {};
using storage_types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(determinism, storage_types);

TYPED_TEST(determinism, results_do_not_depend_on_the_number_of_threads_or_the_run) {
  eigen_backend<TypeParam> one(1);
  eigen_backend<TypeParam> two(2);
  eigen_backend<TypeParam> four(4);
  ASSERT_EQ(four.threads(), 4);
  for_each_op([&](const std::string& name, rule r, auto make, auto run) {
    generator g(7);
    const bool product = r == rule::products && name.find("linear") != std::string::npos;
    // enough work to be shared among threads; the second shape consists of whole tiles
    for (const sizes large : product ? std::vector<sizes>{{700, 40, 70}, {700, 64, 96}} : std::vector<sizes>{{1100, 5, 160}}) {
      const inputs in = rounded<eigen_backend<TypeParam>>(make(large, g));
      const auto on = [&](auto& backend) { return run(lab(backend, in, arrangement::packed)); };
      for (const auto set : detail::eigen::all_isas) {
        if (set > detail::eigen::best_isa_for<TypeParam>()) continue;
        SCOPED_TRACE(detail::eigen::name_of(set));
        for (auto* backend : {&one, &two, &four}) backend->use(detail::eigen::name_of(set));
        const outputs expected = on(one);
        EXPECT_TRUE(same_bits(on(one), expected)) << name << " differs between two runs";
        EXPECT_TRUE(same_bits(on(two), expected)) << name << " differs with 2 threads";
        for (int repeat = 0; repeat < 2; ++repeat) EXPECT_TRUE(same_bits(on(four), expected)) << name << " differs with 4 threads";
      }
    }
  });
}

TEST(determinism_check, sees_one_changed_bit) {
  const outputs a{{"y", precision::summed, {1.0, 2.0}}};
  outputs b = a;
  EXPECT_TRUE(same_bits(a, b));
  b[0].values[1] = std::nextafter(2.0, 3.0);
  EXPECT_FALSE(same_bits(a, b));
}

}  // namespace determinism_tests
}  // namespace esft::test
