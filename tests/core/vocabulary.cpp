// SPDX-License-Identifier: Apache-2.0
// Contracts, extents, indices, random numbers, type lists and reflection: small promises that everything else leans on.
#include <esft/core.hpp>
#include <esft/core/reflect.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

namespace core_vocabulary_tests {

TEST(contract, says_where_and_what_was_expected) {
  EXPECT_NO_THROW(ESFT_EXPECTS(1 + 1 == 2, "arithmetic works"));
  try {
    ESFT_EXPECTS(1 + 1 == 3, "arithmetic is broken");
    FAIL() << "a broken precondition throws";
  } catch (const esft::contract_violation& violation) {
    const std::string text = violation.what();
    EXPECT_NE(text.find("vocabulary.cpp:"), text.npos) << text;
    EXPECT_NE(text.find("1 + 1 == 3"), text.npos) << text;
    EXPECT_NE(text.find("arithmetic is broken"), text.npos) << text;
  }
}

TEST(error, category_is_the_exit_code) {
  EXPECT_EQ(static_cast<int>(esft::usage_error("x").category()), 2);
  EXPECT_EQ(static_cast<int>(esft::error(esft::error_category::bad_input, "x").category()), 3);
  EXPECT_EQ(static_cast<int>(esft::error(esft::error_category::storage, "x").category()), 4);
  EXPECT_EQ(static_cast<int>(esft::numerics_error("x").category()), 5);
  EXPECT_EQ(static_cast<int>(esft::device_error("x").category()), 6);
  EXPECT_EQ(static_cast<int>(esft::error_category::lock_held), 7);
  EXPECT_EQ(static_cast<int>(esft::error_category::interrupted), 8);
}

TEST(element_count, multiplies_or_refuses) {
  EXPECT_EQ(esft::element_count<3>({2, 3, 4}), 24);
  EXPECT_EQ(esft::element_count<2>({0, 5}), 0);
  EXPECT_EQ(esft::element_count<0>({}), 1);
  EXPECT_THROW(esft::element_count<2>({2, -1}), esft::contract_violation);
  constexpr esft::index big = esft::index{1} << 32;
  EXPECT_EQ(esft::element_count<2>({big, big / 4}), esft::index{1} << 62);
  EXPECT_THROW(esft::element_count<2>({big, big / 2}), esft::contract_violation) << "2^63 does not fit";
  EXPECT_THROW(esft::element_count<2>({std::numeric_limits<esft::index>::max(), 2}), esft::contract_violation);
}

TEST(strong_index, kinds_do_not_mix) {
  static_assert(!std::is_convertible_v<esft::layer_index, esft::expert_index>);
  static_assert(!std::is_convertible_v<std::int32_t, esft::layer_index>);
  static_assert(!std::is_constructible_v<esft::expert_index, esft::layer_index>);
  EXPECT_LT(esft::expert_index{2}, esft::expert_index{10});
  EXPECT_EQ(esft::layer_index{3}, esft::layer_index{3});
}

TEST(counter_rng, is_a_pure_function_and_its_streams_differ) {
  const esft::counter_rng a(7, esft::rng_stream::test);
  const esft::counter_rng again(7, esft::rng_stream::test);
  const esft::counter_rng other_seed(8, esft::rng_stream::test);
  const esft::counter_rng other_stream(7, esft::rng_stream::shuffle);
  const esft::counter_rng other_substream(7, esft::rng_stream::test, 1);
  for (std::uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(a.bits(i), again.bits(i));
    EXPECT_NE(a.bits(i), other_seed.bits(i));
    EXPECT_NE(a.bits(i), other_stream.bits(i));
    EXPECT_NE(a.bits(i), other_substream.bits(i));
  }
}

TEST(counter_rng, moments_are_those_of_the_distribution) {
  const esft::counter_rng rng(1, esft::rng_stream::test);
  constexpr int draws = 100000;
  double uniform = 0;
  double normal = 0;
  double square = 0;
  std::vector<int> bins(10);
  for (std::uint64_t i = 0; i < draws; ++i) {
    const double u = rng.uniform(i);
    ASSERT_TRUE(u >= 0 && u < 1);
    uniform += u;
    const double z = rng.normal(i);
    normal += z;
    square += z * z;
    ++bins.at(rng.below(i, 10));
  }
  // Five standard errors; the draws are fixed by the seed, so this cannot fail by chance later.
  EXPECT_NEAR(uniform / draws, 0.5, 5 * 0.2887 / 316.2);
  EXPECT_NEAR(normal / draws, 0.0, 5 / 316.2);
  EXPECT_NEAR(square / draws, 1.0, 5 * 1.4142 / 316.2);
  for (const int count : bins) EXPECT_NEAR(count, draws / 10, 5 * 95);
}

TEST(shuffle, permutes_and_repeats) {
  std::vector<int> items(50);
  std::iota(items.begin(), items.end(), 0);
  auto first = items;
  auto second = items;
  auto other = items;
  esft::shuffle(first, esft::counter_rng(3, esft::rng_stream::shuffle));
  esft::shuffle(second, esft::counter_rng(3, esft::rng_stream::shuffle));
  esft::shuffle(other, esft::counter_rng(4, esft::rng_stream::shuffle));
  EXPECT_EQ(first, second);
  EXPECT_NE(first, other);
  EXPECT_NE(first, items);
  EXPECT_TRUE(std::is_permutation(first.begin(), first.end(), items.begin()));
  std::vector<int> none;
  EXPECT_NO_THROW(esft::shuffle(none, esft::counter_rng(3, esft::rng_stream::shuffle)));
}

struct red {
  static constexpr std::string_view name = "red";
};
struct blue {
  static constexpr std::string_view name = "blue";
};
struct yours {
  static constexpr std::string_view name = "yours";
};

TEST(type_list, visits_by_name_and_grows_by_append) {
  using family = esft::type_list<red, blue>;
  std::string seen;
  const auto note = [&]<class T>() { seen += T::name; };
  EXPECT_TRUE(esft::visit_by_name(family{}, "blue", note));
  EXPECT_EQ(seen, "blue");
  EXPECT_FALSE(esft::visit_by_name(family{}, "yours", note));
  EXPECT_FALSE(esft::visit_by_name(family{}, "", note));
  EXPECT_EQ(seen, "blue") << "an unknown name visits nothing";
  EXPECT_TRUE(esft::visit_by_name(family::append<yours>{}, "yours", note));
  seen.clear();
  family::append<yours>::for_each(note);
  EXPECT_EQ(seen, "redblueyours");
}

struct pair_of_members {
  ESFT_DEFINE_STRUCT(pair_of_members, (int, first), (double, second));
};

TEST(reflect, yields_names_and_members_in_order) {
  pair_of_members object{1, 2.5};
  std::string names;
  esft::for_each_member(object, [&](std::string_view name, auto& member) {
    names += std::string(name) + " ";
    member = member * 2;
  });
  EXPECT_EQ(names, "first second ");
  EXPECT_EQ(object.first, 2);
  EXPECT_EQ(object.second, 5.0);
}

TEST(records, experts_are_counted_over_layers_and_unknown_layers_train_nothing) {
  esft::expert_set set;
  EXPECT_EQ(set.size(), 0U);
  set.layers[esft::layer_index{1}] = {esft::expert_index{4}, esft::expert_index{0}};
  set.layers[esft::layer_index{2}] = {};
  EXPECT_EQ(set.size(), 2U);

  esft::trainable_set trainable;
  EXPECT_TRUE(trainable.empty());
  trainable.experts[esft::layer_index{1}] = {};
  EXPECT_TRUE(trainable.empty()) << "a layer without experts trains nothing";
  trainable.experts[esft::layer_index{1}] = {esft::expert_index{4}};
  EXPECT_FALSE(trainable.empty());
  EXPECT_EQ(trainable.experts_of(esft::layer_index{1}).size(), 1U);
  EXPECT_TRUE(trainable.experts_of(esft::layer_index{9}).empty());
  const esft::parameter_key router{esft::parameter_role::router, esft::layer_index{1}};
  EXPECT_FALSE(trainable.trains(router));
  trainable.whole.insert(router);
  EXPECT_TRUE(trainable.trains(router));
}

}  // namespace core_vocabulary_tests
