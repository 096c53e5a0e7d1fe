// SPDX-License-Identifier: Apache-2.0
// Scores from outputs, gradients and weights, worked out by hand. Numbers are chosen so that float holds them exactly.
#include <esft/relevance.hpp>

#include "synthetic.hpp"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace expert_oracles_tests {

using esft::layer_index;
using esft_test::owned_record;

constexpr layer_index layer{3};

std::vector<double> scores_of(const auto& scorer) { return scorer.scores().layers.at(layer).scores; }

/// Expert 0 answers two tokens with gate weights .5 and .25 of 1, expert 3 nobody.
struct routed_outputs {
  owned_record routing{layer, 4, 2, {}, {}, {}};
  std::vector<float> norms;
  routed_outputs() {
    routing.add({{0, .50F}, {1, .50F}}, 0);
    norms.insert(norms.end(), {2, 8});
    routing.add({{2, .75F}, {0, .25F}}, 0);
    norms.insert(norms.end(), {4, 5});
  }
  [[nodiscard]] esft::expert_output_record view() const { return {routing.view(), norms}; }
};

TEST(reap, is_the_mean_weighted_norm_over_the_tokens_of_an_expert) {
  esft::reap scorer;
  scorer.observe(routed_outputs().view());
  EXPECT_EQ(scores_of(scorer), (std::vector<double>{(.5 * 2 + .25 * 5) / 2, 4, 3, 0}));
  EXPECT_EQ(scorer.scores().tokens, 2);
}

TEST(reap, weights_of_a_token_are_made_to_sum_to_one) {
  routed_outputs halved;  // a router that does not renormalise, or scales by a power of two, gives the same score
  for (float& weight : halved.routing.weights) weight /= 8;
  esft::reap scorer;
  scorer.observe(halved.view());
  EXPECT_EQ(scores_of(scorer), (std::vector<double>{1.125, 4, 3, 0}));
}

TEST(reap, example_of_two_tokens) {  // weights .6 and .2, norms 2 and 5
  owned_record routing{layer, 3, 2, {}, {}, {}};
  routing.add({{0, .6F}, {1, .4F}}, 0);
  routing.add({{0, .2F}, {2, .8F}}, 0);
  const std::vector<float> norms{2, 1, 5, 1};
  esft::reap scorer;
  scorer.observe(esft::expert_output_record{routing.view(), norms});
  EXPECT_NEAR(scores_of(scorer)[0], 1.1, 1e-7);
  esft::output_norm mean;
  mean.observe(esft::expert_output_record{routing.view(), norms});
  EXPECT_EQ(scores_of(mean), (std::vector<double>{3.5, 1, 1}));
  // The sum of the weighted norms is no scorer of its own: the mean times how often the expert was chosen.
  esft::token_selection_ratio frequency;
  frequency.observe(routing.view());
  const auto counts = frequency.scores().layers.at(layer).counts;
  EXPECT_EQ(counts[0], 2);
  EXPECT_NEAR(static_cast<double>(counts[0]) * scores_of(scorer)[0], 2.2, 2e-7);
}

TEST(output_norm, knows_nothing_of_weights) {
  esft::output_norm scorer;
  scorer.observe(routed_outputs().view());
  EXPECT_EQ(scores_of(scorer), (std::vector<double>{3.5, 8, 4, 0}));
}

TEST(weighted_frequency, every_token_divides_one_vote) {
  const owned_record record = esft_test::worked_example();
  esft::weighted_frequency pooled;
  pooled.observe(record.view());
  const std::vector<double> by_hand{(.625 + .75 + .125) / 6, (.375 + .5 + .875 + 2. / 3 + .4375) / 6, (.25 + 1. / 3) / 6, (.5 + .5625) / 6};
  const auto got = scores_of(pooled);
  for (std::size_t e = 0; e < 4; ++e) EXPECT_NEAR(got[e], by_hand[e], 1e-7) << e;  // gate weights are float32

  esft::weighted_frequency per_sample({esft::sample_mean::per_sample});
  per_sample.observe(record.view());
  const std::vector<double> by_sample{(1.375 / 2 + .125 / 4) / 2, (.375 / 2 + (.5 + .875 + 2. / 3 + .4375) / 4) / 2,
                                      (.25 / 2 + 1. / 3 / 4) / 2, (1.0625 / 4) / 2};
  const auto means = scores_of(per_sample);
  for (std::size_t e = 0; e < 4; ++e) EXPECT_NEAR(means[e], by_sample[e], 1e-7) << e;
}

TEST(weighted_frequency, a_token_without_weight_votes_for_nobody) {
  owned_record record{layer, 2, 1, {}, {}, {}};
  record.add({{0, 0.0F}}, 0);
  record.add({{1, 0.5F}}, 0);
  esft::weighted_frequency scorer;
  scorer.observe(record.view());
  EXPECT_EQ(scores_of(scorer), (std::vector<double>{0, .5}));
}

/// Two experts of D = I = 1; weights and gradients are gate, up, down.
struct small_pass {
  std::vector<std::vector<float>> weights, gradients;
  void show(auto& scorer) const {
    for (std::size_t e = 0; e < weights.size(); ++e) {
      const std::span<const float> w(weights[e]);
      const std::span<const float> g(gradients[e]);
      const auto expert = esft::expert_index(static_cast<std::int32_t>(e));
      scorer.observe(esft::expert_gradient_record{
          {layer, expert, static_cast<int>(weights.size()), 1, 1, w.first(2), w.last(1)}, g.first(2), g.last(1), 4});
    }
  }
};
const small_pass first{{{1, -2, 3}, {2, 2, 2}}, {{2, 1, -1}, {1, 0, 0}}};
const small_pass second{{{1, -2, 3}, {2, 2, 2}}, {{0, -3, 1}, {0, 2, -1}}};

TEST(gradient_scorers, equal_the_sums_by_hand) {
  esft::taylor taylor;
  esft::fisher fisher;
  esft::gradient_magnitude magnitude;
  for (const small_pass& pass : {first, second}) {
    pass.show(taylor);
    pass.show(fisher);
    pass.show(magnitude);
  }
  // passes of expert 0: |2 - 2 - 3| = 3 and |6 + 3| = 9; of expert 1: 2 and |4 - 2| = 2
  EXPECT_EQ(scores_of(taylor), (std::vector<double>{6, 2}));
  // squares: 6 and 10 over three weights; 1 and 5
  EXPECT_EQ(scores_of(fisher), (std::vector<double>{(6. / 3 + 10. / 3) / 2, (1. / 3 + 5. / 3) / 2}));
  // magnitudes: 4 and 4; 1 and 3
  EXPECT_EQ(scores_of(magnitude), (std::vector<double>{4. / 3, (1. / 3 + 3. / 3) / 2}));
  EXPECT_EQ(taylor.scores().tokens, 8);
}

TEST(gradient_scorers, inside_a_pass_taylor_cancels_and_the_others_do_not) {
  const small_pass pass{{{1, 1, 1}, {1, 1, 1}}, {{1, -1, 0}, {1, 1, 0}}};
  esft::taylor taylor;
  esft::fisher fisher;
  pass.show(taylor);
  pass.show(fisher);
  EXPECT_EQ(scores_of(taylor), (std::vector<double>{0, 2}));
  EXPECT_EQ(scores_of(fisher), (std::vector<double>{2. / 3, 2. / 3}));
}

TEST(singular_values, of_matrices_known_by_hand) {
  const auto near = [](const std::vector<double>& got, const std::vector<double>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-14 * want.front()) << i;
  };
  near(esft::singular_values(std::vector<float>{3, 0, 0, -4}, 2, 2), {4, 3});
  near(esft::singular_values(std::vector<float>{1, 1, 0, 1}, 2, 2), {(std::sqrt(5.) + 1) / 2, (std::sqrt(5.) - 1) / 2});
  near(esft::singular_values(std::vector<float>{1, 2, 2, 4}, 2, 2), {5, 0});
  near(esft::singular_values(std::vector<float>{3, 2, 2, 2, 3, -2}, 2, 3), {5, 3});  // wide
  near(esft::singular_values(std::vector<float>{3, 2, 2, 3, 2, -2}, 3, 2), {5, 3});  // its transpose
  near(esft::singular_values(std::vector<float>{0, 0}, 1, 2), {0});
  // a scale of 2^-40 beside 1 is as accurate as 1 is
  EXPECT_NEAR(esft::singular_values(std::vector<float>{1, 0, 0, 0x1p-40F}, 2, 2)[1] / 0x1p-40, 1, 1e-14);
}

TEST(condition_number, joins_the_three_matrices) {
  // D = I = 2: gate stretches 8 : 1, up turns only, down stretches 1 : 1; another expert is singular
  const std::vector<std::vector<float>> gate_up{{8, 0, 0, 1, 0, -1, 1, 0}, {1, 1, 1, 1, 1, 0, 0, 1}};
  const std::vector<float> down{3, 0, 0, 3};
  esft::condition_number scorer;
  for (std::size_t e = 0; e < 2; ++e) {
    scorer.observe(esft::expert_weights_record{layer, esft::expert_index(static_cast<std::int32_t>(e)), 2, 2, 2, gate_up[e], down});
  }
  const auto got = scores_of(scorer);
  EXPECT_NEAR(got[0], .5, 1e-15);  // the cube root of 1/8
  EXPECT_NEAR(got[1], 0, 1e-5);    // its cube is 0 up to rounding
  EXPECT_EQ(scorer.scores().tokens, 0);
}

}  // namespace expert_oracles_tests
