// SPDX-License-Identifier: Apache-2.0
// What every router promises, on every built-in router and every backend, for any bit pattern of the logits.
#include "backend_list.hpp"
#include "numeric.hpp"

#include <esft/moe/routers.hpp>

#include <bit>
#include <limits>

#include <rapidcheck/gtest.h>

namespace laws_routers_tests {

using esft::extents;
using esft::index;
using esft_test::to_host;

/// What holds beyond the laws of all routers.
struct router_traits {
  bool by_logits = true;          ///< the K largest logits win, whatever their bits
  bool experts_are_alike = true;  ///< no expert is treated otherwise for its number
  bool affinities_sum_to_one = true;
  bool empty_slots = false;  ///< some may stay empty
  bool fixed_active = false;  ///< K is the router's own
  index least_experts = 1;
};

/// How the suite makes a router that takes K of E experts; `style` runs through the router's own options.
template <class Router>
struct make_router;
template <>
struct make_router<esft::softmax_topk_router> {
  static constexpr int styles = 4;
  static router_traits traits(int) { return {}; }
  static esft::softmax_topk_router with(index active, index, int style) {
    return esft::softmax_topk_router(active, style % 2 == 1, style < 2 ? 1.0 : 2.5);
  }
};

/// Groups that divide E, and as many of them kept as K experts need.
esft::group_limit groups_for(index active, index experts, esft::group_rank rank) {
  const index groups = experts % 3 == 0 ? 3 : experts % 2 == 0 ? 2 : 1;
  const index size = experts / groups;
  return {groups, std::clamp<index>((active + size - 1) / size, 1, groups), rank};
}
template <>
struct make_router<esft::group_limited_router> {
  static constexpr int styles = 2;
  static router_traits traits(int) { return {.by_logits = false, .experts_are_alike = false}; }
  static esft::group_limited_router with(index active, index experts, int style) {
    const auto limit = groups_for(active, experts, esft::group_rank::largest);
    return {active, limit.groups, limit.kept, style == 1, style == 1 ? 2.5 : 1.0};
  }
};
template <>
struct make_router<esft::sigmoid_topk_router> {
  static constexpr int styles = 4;
  static router_traits traits(int style) {
    return {.by_logits = false, .experts_are_alike = style < 2, .affinities_sum_to_one = false};  // logits differ where sigmoids do not
  }
  static esft::sigmoid_topk_router with(index active, index experts, int style) {
    esft::sigmoid_topk_options options;
    options.normalise = style % 2 == 0;
    options.scale = style % 2 == 0 ? 2.5 : 1.0;
    if (style >= 2) {
      options.groups = groups_for(active, experts, esft::group_rank::sum_of_two_best);
      for (index e = 0; e < experts; ++e) options.bias.push_back(0.25F * static_cast<float>(e % 3) - 0.3F);
    }
    return esft::sigmoid_topk_router(active, options);
  }
};

template <>
struct make_router<esft::switch_top1_router> {
  static constexpr int styles = 2;
  static router_traits traits(int) { return {.empty_slots = true, .fixed_active = true}; }
  static esft::switch_top1_router with(index, index, int style) { return esft::switch_top1_router(style == 0 ? 1.0 : 1.25); }
};
template <>
struct make_router<esft::gshard_top2_router> {
  static constexpr int styles = 2;
  static router_traits traits(int) { return {.by_logits = false, .empty_slots = true, .fixed_active = true, .least_experts = 2}; }
  static esft::gshard_top2_router with(index, index, int style) { return esft::gshard_top2_router({1.0, style == 1, 5}); }
};
template <>
struct make_router<esft::null_experts_router> {
  static constexpr int styles = 2;
  static router_traits traits(int) { return {.by_logits = false, .experts_are_alike = false, .empty_slots = true}; }
  static esft::null_experts_router with(index active, index experts, int style) { return {active, style == 0 ? 0 : experts / 3}; }
};
template <>
struct make_router<esft::expert_choice_router> {
  static constexpr int styles = 2;
  static router_traits traits(int) { return {.by_logits = false, .empty_slots = true}; }
  static esft::expert_choice_router with(index active, index, int style) {
    return esft::expert_choice_router(active, style == 0 ? 1 : 2);
  }
};

template <>
struct make_router<esft::grouped_experts_router> {
  static constexpr int styles = 2;
  static router_traits traits(int) { return {.by_logits = false, .experts_are_alike = false}; }
  static esft::grouped_experts_router with(index active, index experts, int style) {
    index size = 3;
    while (active % size != 0 || experts % size != 0) --size;
    return {active, size, style == 1, style == 1 ? 2.5 : 1.0};
  }
};

template <class Backend>
class router_laws : public ::testing::Test {};
TYPED_TEST_SUITE(router_laws, esft_test::backends, esft_test::backend_names);

/// Runs a property for every built-in router in every style.
template <class Property>
void for_each_router(Property&& property) {
  esft::builtin_routers::for_each([&]<class Router>() {
    for (int style = 0; style < make_router<Router>::styles; ++style) {
      property([style](index active, index experts) { return make_router<Router>::with(active, experts, style); },
               make_router<Router>::traits(style));
    }
  });
}

/// Any float, given by its bits: NaN with any payload, infinities, subnormals, both zeros; ordinary numbers and ties too.
rc::Gen<float> any_logit() {
  return rc::gen::oneOf(rc::gen::map(rc::gen::arbitrary<std::uint32_t>(), [](std::uint32_t bits) { return std::bit_cast<float>(bits); }),
                        rc::gen::map(rc::gen::inRange(-3, 4), [](int value) { return static_cast<float>(value); }),
                        rc::gen::element(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                         -std::numeric_limits<float>::infinity(), -0.0F, std::numeric_limits<float>::max()));
}

TYPED_TEST(router_laws, every_row_has_distinct_ids_in_range_for_any_bits) {
  TypeParam backend;
  EXPECT_TRUE(rc::check("K distinct ids in [0, E)", [&] {
    const index experts = *rc::gen::inRange<index>(1, 12);
    const index active = *rc::gen::inRange<index>(1, experts + 1);
    const index tokens = *rc::gen::inRange<index>(0, 5);
    const auto logits = *rc::gen::container<std::vector<float>>(static_cast<std::size_t>(tokens * experts), any_logit());
    const auto z = esft_test::make<esft::accum_t<TypeParam>>(backend, extents<2>{tokens, experts}, logits);
    for_each_router([&](auto router, router_traits traits) {
      if (experts < traits.least_experts) return;
      const auto made = router(active, experts);
      const index slots = made.active();
      RC_ASSERT(slots == active || traits.fixed_active);
      const auto decision = made.route(backend, z.view());
      RC_ASSERT(decision.ids.shape() == (extents<2>{tokens, slots}));
      RC_ASSERT(decision.weights.shape() == (extents<2>{tokens, slots}));
      RC_ASSERT(decision.probabilities.shape() == (extents<2>{tokens, experts}));
      const auto ids = to_host<std::int32_t>(backend, decision.ids);
      for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t) {
        std::vector<bool> taken(static_cast<std::size_t>(experts));
        for (std::size_t k = 0; k < static_cast<std::size_t>(slots); ++k) {
          const std::int32_t e = ids[t * static_cast<std::size_t>(slots) + k];
          if (traits.empty_slots && e == esft::no_expert) continue;
          RC_ASSERT(e >= 0 && e < experts);
          RC_ASSERT(!taken[static_cast<std::size_t>(e)]);
          taken[static_cast<std::size_t>(e)] = true;
        }
      }
    });
  }));
}

TYPED_TEST(router_laws, the_largest_logits_win_and_ties_go_to_the_lower_id) {
  TypeParam backend;
  EXPECT_TRUE(rc::check("ids are the first K of a stable sort by falling logit, NaN last", [&] {
    const index experts = *rc::gen::inRange<index>(1, 12);
    const index active = *rc::gen::inRange<index>(1, experts + 1);
    const auto logits = *rc::gen::container<std::vector<float>>(static_cast<std::size_t>(experts), any_logit());
    const auto z = esft_test::make<esft::accum_t<TypeParam>>(backend, extents<2>{1, experts}, logits);
    std::vector<std::int32_t> order(logits.size());
    for (std::size_t e = 0; e < order.size(); ++e) order[e] = static_cast<std::int32_t>(e);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      const float za = logits[static_cast<std::size_t>(a)];
      const float zb = logits[static_cast<std::size_t>(b)];
      return std::isnan(zb) ? !std::isnan(za) : za > zb;
    });
    order.resize(static_cast<std::size_t>(active));
    for_each_router([&](auto router, router_traits traits) {
      if (!traits.by_logits || traits.fixed_active) return;
      RC_ASSERT(to_host<std::int32_t>(backend, router(active, experts).route(backend, z.view()).ids) == order);
    });
  }));
}

TYPED_TEST(router_laws, finite_logits_give_weights_that_fall_and_probabilities_that_sum_to_one) {
  TypeParam backend;
  EXPECT_TRUE(rc::check("probabilities, weights", [&] {
    const index experts = *rc::gen::inRange<index>(1, 12);
    const index active = *rc::gen::inRange<index>(1, experts + 1);
    const auto seed = *rc::gen::arbitrary<std::uint32_t>();
    const auto z = esft_test::random_tensor<esft::accum_t<TypeParam>>(backend, extents<2>{3, experts}, seed, 4);
    for_each_router([&](auto router, router_traits traits) {
      if (experts < traits.least_experts) return;
      const auto decision = router(active, experts).route(backend, z.view());
      const auto slots = static_cast<std::size_t>(decision.ids.extent(1));
      const auto ids = to_host<std::int32_t>(backend, decision.ids);
      const auto s = to_host(backend, decision.probabilities);
      const auto w = to_host(backend, decision.weights);
      for (std::size_t t = 0; t < 3; ++t) {
        double sum = 0;
        for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) sum += s[t * static_cast<std::size_t>(experts) + e];
        RC_ASSERT(!traits.affinities_sum_to_one || std::abs(sum - 1) < 1e-5);
        for (std::size_t k = 0; k < slots; ++k) {
          const double here = w[t * slots + k];
          RC_ASSERT(here >= 0 && std::isfinite(here));
          RC_ASSERT(ids[t * slots + k] != esft::no_expert || here == 0);
          RC_ASSERT(!traits.experts_are_alike || traits.empty_slots || k == 0 || here <= w[t * slots + k - 1]);
        }
      }
    });
  }));
}

TYPED_TEST(router_laws, permuted_logits_give_permuted_ids) {
  TypeParam backend;
  EXPECT_TRUE(rc::check("ids follow the experts", [&] {
    const index experts = *rc::gen::inRange<index>(2, 12);
    const index active = *rc::gen::inRange<index>(1, experts + 1);
    const auto seed = *rc::gen::arbitrary<std::uint32_t>();
    const auto logits = esft_test::normal_numbers(static_cast<std::size_t>(experts), seed);  // all different
    std::vector<std::size_t> place(logits.size());
    for (std::size_t e = 0; e < place.size(); ++e) place[e] = e;
    esft::shuffle(place, esft::counter_rng(seed, esft::rng_stream::test, 1));
    std::vector<double> moved(logits.size());
    for (std::size_t e = 0; e < place.size(); ++e) moved[place[e]] = logits[e];
    const auto z = esft_test::make<esft::accum_t<TypeParam>>(backend, extents<2>{1, experts}, logits);
    const auto permuted = esft_test::make<esft::accum_t<TypeParam>>(backend, extents<2>{1, experts}, moved);
    for_each_router([&](auto router, router_traits traits) {
      if (!traits.experts_are_alike) return;
      const auto before = router(active, experts).route(backend, z.view());
      const auto after = router(active, experts).route(backend, permuted.view());
      const auto ids = to_host<std::int32_t>(backend, before.ids);
      const auto ids_after = to_host<std::int32_t>(backend, after.ids);
      const auto w = to_host(backend, before.weights);
      const auto w_after = to_host(backend, after.weights);
      for (std::size_t k = 0; k < ids.size(); ++k) {
        RC_ASSERT((ids[k] == esft::no_expert) == (ids_after[k] == esft::no_expert));
        if (ids[k] == esft::no_expert) continue;
        RC_ASSERT(static_cast<std::size_t>(ids_after[k]) == place[static_cast<std::size_t>(ids[k])]);
        RC_ASSERT(std::abs(w[k] - w_after[k]) < 1e-5);
      }
    });
  }));
}

TYPED_TEST(router_laws, takes_between_one_and_all_experts) {
  TypeParam backend;
  const auto z = esft_test::random_tensor<esft::accum_t<TypeParam>>(backend, extents<2>{2, 3}, 1);
  for_each_router([&](auto router, router_traits traits) {
    if (traits.fixed_active) return;
    EXPECT_THROW(static_cast<void>(router(0, 3).route(backend, z.view())), esft::contract_violation);
    EXPECT_THROW(static_cast<void>(router(4, 3).route(backend, z.view())), esft::contract_violation);
    EXPECT_NO_THROW(static_cast<void>(router(1, 3).route(backend, z.view())));
    EXPECT_NO_THROW(static_cast<void>(router(3, 3).route(backend, z.view())));
  });
}

// Every backend's own arithmetic: decision and gradient are those of the reference backend in double, from the same logits.
//
// The bound: a path from an input to a gradient has at most some 4 E + 10 roundings (softmax, its gradient and the weights' normalisation
// sum up to E terms each), 74 for E = 16. They add up like a random walk, to about sqrt(74) half units in the last place, 4.3 epsilon, of
// the terms that are summed; and a scale of 2.5 or a share Z < 1 of the chosen experts in a denominator makes these up to a few times the
// upstream gradient. 16 epsilon of the largest upstream gradient holds both; 2.3 was the most seen, and a term left out is above 1e4.
TYPED_TEST(router_laws, gradients_equal_those_of_the_reference_in_double) {
  using number = esft::accum_t<TypeParam>;
  TypeParam backend;
  esft::reference_backend<double> exact;
  constexpr index tokens = 16;
  constexpr double bound = 16 * static_cast<double>(std::numeric_limits<number>::epsilon());
  for (const index experts : {6, 9, 16}) {
    for (const index active : {1, 2, 5}) {
      for (const bool auxiliary : {false, true}) {
        const auto same = [](std::size_t count, std::uint64_t seed) {  // the same numbers in float and in double
          auto values = esft_test::normal_numbers(count, seed);
          for (double& value : values) value = static_cast<float>(value);
          return values;
        };
        const auto seed = static_cast<std::uint64_t>(100 * experts + 10 * active);
        const auto z = same(static_cast<std::size_t>(tokens * experts), seed);
        const auto dprobabilities = same(static_cast<std::size_t>(auxiliary ? tokens * experts : 0), seed + 1);
        int number_of_router = 0;
        for_each_router([&](auto router, router_traits) {
          const std::string what = "router " + std::to_string(number_of_router++) + ", E = " + std::to_string(experts);
          const auto made = router(active, experts);
          const extents<2> slots{tokens, made.active()};
          const auto dweights = same(static_cast<std::size_t>(esft::element_count(slots)), seed + 2);
          const auto run = [&]<class Backend>(Backend& b) {
            using sum = esft::accum_t<Backend>;
            const auto decision = made.route(b, esft_test::make<sum>(b, extents<2>{tokens, experts}, z).view());
            auto dlogits = esft_test::random_tensor<sum>(b, extents<2>{tokens, experts}, 14);  // must be overwritten
            const auto dw = esft_test::make<sum>(b, slots, dweights);
            const auto dp = esft_test::make<sum>(b, extents<2>{auxiliary ? tokens : 0, experts}, dprobabilities);
            made.backward(b, decision, dw.view(), dp.view(), dlogits.view());
            return std::pair(to_host<std::int32_t>(b, decision.ids), to_host(b, dlogits));
          };
          const auto want = run(exact);
          const auto got = run(backend);
          EXPECT_EQ(got.first, want.first) << what;
          const double scale = std::max(esft_test::scale_of(dweights), esft_test::scale_of(dprobabilities));
          double error = 0;
          for (std::size_t i = 0; i < want.second.size(); ++i) error = std::max(error, std::abs(got.second[i] - want.second[i]) / scale);
          EXPECT_LE(error, bound) << what;
        });
      }
    }
  }
}

// Differences are taken in double only: they need the digits.
TEST(router_gradients, equal_central_differences) {
  esft::reference_backend<double> backend;
  esft_test::subject tested;
  using number = esft::accum_t<esft_test::subject>;
  for (const index active : {1, 3, 6}) {
    for (const bool auxiliary : {false, true}) {
      auto z = esft_test::random_tensor<double>(backend, extents<2>{4, 6}, 11);
      const auto dprobabilities = esft_test::random_tensor<double>(backend, extents<2>{auxiliary ? 4 : 0, 6}, 13);
      for_each_router([&](auto router, router_traits) {
        const auto dweights = esft_test::random_tensor<double>(backend, extents<2>{4, router(active, 6).active()}, 12);
        const auto loss = [&] {
          const auto decision = router(active, 6).route(backend, std::as_const(z).view());
          double sum = 0;
          for (index i = 0; i < dweights.size(); ++i) sum += dweights.data()[i] * decision.weights.data()[i];
          for (index i = 0; i < dprobabilities.size(); ++i) sum += dprobabilities.data()[i] * decision.probabilities.data()[i];
          return sum;
        };
        const auto there = [&](const auto& t) { return esft_test::make<number>(tested, t.shape(), to_host(backend, t)); };
        const auto decision = router(active, 6).route(tested, there(z).view());
        auto dlogits = esft_test::random_tensor<number>(tested, extents<2>{4, 6}, 14);  // must be overwritten
        router(active, 6).backward(tested, decision, there(dweights).view(), there(dprobabilities).view(), dlogits.view());
        esft_test::expect_central_differences({z.data(), 24}, to_host(tested, dlogits), loss, "logits", 4096,
                                              esft_test::rule_of<esft_test::subject>);
      });
    }
  }
}

// A router that weighs: its own choice, then experts that no logits would choose.
TYPED_TEST(router_laws, weighing_its_own_choice_gives_its_weights) {
  TypeParam backend;
  int weighing = 0;
  for_each_router([&](auto router, router_traits) {
    const auto z = esft_test::random_tensor<esft::accum_t<TypeParam>>(backend, extents<2>{40, 6}, 15, 2);
    const auto made = router(3, 6);
    if constexpr (esft::weighing_router<decltype(made), TypeParam>) {
      ++weighing;
      const auto decision = made.route(backend, z.view());
      auto weights = esft_test::random_tensor<esft::accum_t<TypeParam>>(backend, decision.weights.shape(), 16);  // must be overwritten
      made.weigh(backend, decision.probabilities.view(), decision.ids.view(), weights.view());
      EXPECT_EQ(to_host(backend, weights), to_host(backend, decision.weights)) << made.name;
    }
  });
  EXPECT_GE(weighing, 16);
}

TEST(router_gradients, equal_central_differences_for_experts_that_are_given) {
  esft::reference_backend<double> backend;
  esft_test::subject tested;
  using number = esft::accum_t<esft_test::subject>;
  constexpr std::int32_t none = esft::no_expert;
  const std::vector<std::vector<std::int32_t>> rows{{2, 0, 3}, {none, 1, 2}, {none, none, none}, {3, none, 1}};
  auto z = esft_test::random_tensor<double>(backend, extents<2>{4, 6}, 17);
  const auto dprobabilities = esft_test::random_tensor<double>(backend, extents<2>{4, 6}, 18);
  for_each_router([&](auto router, router_traits) {
    const auto made = router(3, 6);
    if constexpr (esft::weighing_router<decltype(made), esft_test::subject>) {
      const extents<2> slots{4, made.active()};
      std::vector<std::int32_t> given;
      for (const auto& row : rows) given.insert(given.end(), row.begin(), row.begin() + slots[1]);
      const auto dweights = esft_test::random_tensor<double>(backend, slots, 19);
      const auto weigh = [&](auto& b, const auto& logits) {
        auto decision = made.route(b, std::as_const(logits).view());
        b.copy_in(std::span<const std::int32_t>(given), decision.ids.view());
        made.weigh(b, std::as_const(decision.probabilities).view(), std::as_const(decision.ids).view(), decision.weights.view());
        return decision;
      };
      const auto loss = [&] {
        const auto decision = weigh(backend, z);
        double sum = 0;
        for (index i = 0; i < dweights.size(); ++i) sum += dweights.data()[i] * decision.weights.data()[i];
        for (index i = 0; i < dprobabilities.size(); ++i) sum += dprobabilities.data()[i] * decision.probabilities.data()[i];
        return sum;
      };
      const auto there = [&](const auto& t) { return esft_test::make<number>(tested, t.shape(), to_host(backend, t)); };
      auto dlogits = esft_test::random_tensor<number>(tested, extents<2>{4, 6}, 20);  // must be overwritten
      made.backward(tested, weigh(tested, there(z)), there(dweights).view(), there(dprobabilities).view(), dlogits.view());
      esft_test::expect_central_differences({z.data(), 24}, to_host(tested, dlogits), loss, std::string(made.name), 4096,
                                            esft_test::rule_of<esft_test::subject>);
    }
  });
}

}  // namespace laws_routers_tests
