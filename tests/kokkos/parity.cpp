// SPDX-License-Identifier: Apache-2.0
// Every op of the Kokkos backend against the reference backend in double, its gradients, its exact sums, and the same bits twice.
#include "../backends/gradient_cases.hpp"
#include "../backends/ops.hpp"

#include <esft/backends/kokkos.hpp>

#include <bit>

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
  constexpr bool half = std::same_as<TypeParam, bf16>;
  backend_of<TypeParam> backend;
  reference_backend<double> reference;
  for_each_op([&](const std::string& name, rule r, auto make, auto run) {
    std::uint64_t seed = 1;
    double norm = 0;
    for (const sizes s : shapes()) {
      generator g(seed++);
      const inputs in = rounded<backend_of<TypeParam>>(make(s, g));
      const outputs expected = run(lab(reference, in));
      const outputs actual = run(lab(backend, in));
      const outputs terms = r == rule::products ? sizes_of_terms(in, run) : outputs{};
      ASSERT_EQ(actual.size(), expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const std::span<const double> magnitude = terms.empty() ? std::span<const double>() : std::span<const double>(terms[i].values);
        const comparison result = compare(actual[i].values, expected[i].values, magnitude, actual[i].kind, half, factor_of(r, s));
        EXPECT_TRUE(result.passed) << name << " " << expected[i].name << " at " << s.a << " x " << s.b << " x " << s.c << ": "
                                   << result.what;
        for (const double x : expected[i].values) norm += std::isnan(x) ? 0 : std::abs(x);
      }
    }
    EXPECT_GT(norm, 0) << name << " was compared on zeros only";
  });
}

TYPED_TEST(kokkos, small_integers_are_exact) {
  backend_of<TypeParam> backend;
  reference_backend<double> reference;
  for_each_matrix_op([&](const std::string& name, rule, auto make, auto run) {
    std::uint64_t seed = 100;
    for (const sizes s : shapes()) {
      generator g(seed++, true);
      const inputs in = make(s, g);
      const outputs expected = run(lab(reference, in));
      const outputs actual = run(lab(backend, in));
      for (std::size_t i = 0; i < actual.size(); ++i) {
        for (std::size_t j = 0; j < actual[i].values.size(); ++j) {
          const double exact = expected[i].values[j];
          const double wanted = actual[i].kind == precision::stored ? static_cast<double>(TypeParam(static_cast<float>(exact))) : exact;
          ASSERT_EQ(actual[i].values[j], wanted) << name << " " << expected[i].name << " at " << s.a << " x " << s.b << " x " << s.c;
        }
      }
    }
  });
}

/// Outputs on fresh buffers full of NaN, bit for bit. The digest goes to the report (--gtest_output): runs with other numbers of threads
/// must give the same one (threads.cmake).
TYPED_TEST(kokkos, two_runs_give_the_same_bits) {
  backend_of<TypeParam> backend;
  std::uint64_t digest = 0xcbf29ce484222325U;
  for_each_op([&](const std::string& name, rule, auto make, auto run) {
    for (const sizes s : {sizes{70, 9, 67}, sizes{500, 40, 130}}) {
      generator g(7);
      const inputs in = rounded<backend_of<TypeParam>>(make(s, g));
      const outputs first = run(lab(backend, in));
      const outputs other = run(lab(backend, in));
      ASSERT_EQ(other.size(), first.size());
      for (std::size_t i = 0; i < first.size(); ++i) {
        ASSERT_EQ(other[i].values.size(), first[i].values.size());
        for (std::size_t j = 0; j < first[i].values.size(); ++j) {
          digest = (digest ^ std::bit_cast<std::uint64_t>(first[i].values[j])) * 0x100000001b3U;
          ASSERT_EQ(std::bit_cast<std::uint64_t>(other[i].values[j]), std::bit_cast<std::uint64_t>(first[i].values[j]))
              << name << " " << first[i].name << " element " << j;
        }
      }
    }
  });
  this->RecordProperty("digest", std::to_string(digest));
  this->RecordProperty("threads", std::to_string(backend.instance().concurrency()));
}

TEST(kokkos_gradients, agree_with_central_differences) {
  backend_of<double> in_double;
  for (const gradient_case& test : all_cases(in_double)) {
    EXPECT_LE(worst_error(test, test.gradient, double_differences), double_differences.allowed) << test.name;
  }
  backend_of<float> in_float;
  for (const gradient_case& test : all_cases(in_float)) {
    EXPECT_LE(worst_error(test, test.gradient, float_differences), float_differences.allowed) << test.name;
  }
}

TEST(kokkos_gradients, planted_bugs_are_found) {
  backend_of<double> backend;
  EXPECT_GE(find_planted_bugs(backend, double_differences, 0.001), 20);
}

}  // namespace
}  // namespace esft::test
