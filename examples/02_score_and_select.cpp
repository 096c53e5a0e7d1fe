// SPDX-License-Identifier: Apache-2.0
// Lesson 2. From routing decisions to the experts worth training: two samples, six tokens, E = 4 experts, K = 2 active.
#include <esft/relevance.hpp>
#include <esft/selection.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

namespace {
const esft::layer_index layer{1};

template <esft::relevance_scorer Scorer>
std::vector<double> score(const esft::routing_record& record, esft::sample_mean mean) {
  Scorer scorer({mean});
  scorer.observe(record);  // call it for every layer of every batch; parts of a run merge by addition
  return scorer.scores().layers.at(layer).scores;
}

bool expect(const char* what, const std::vector<double>& scores, const std::vector<double>& by_hand) {
  bool same = scores.size() == by_hand.size();
  std::printf("%-24s", what);
  for (std::size_t e = 0; e < scores.size(); ++e) {
    std::printf(" e%zu %.5f", e, scores[e]);
    same = same && std::abs(scores[e] - by_hand[e]) < 1e-7;
  }
  std::printf(same ? "\n" : "   <- wrong\n");
  return same;
}
}  // namespace

int main() {
  const std::vector<std::int32_t> ids = {0, 1, 0, 2, /* sample 1 */ 1, 3, 1, 0, 1, 2, 3, 1};           // [T, K]
  const std::vector<float> gates = {.5F, .3F, .6F, .2F, .4F, .4F, .7F, .1F, .5F, .25F, .45F, .35F};    // [T, K]
  const std::vector<std::int32_t> sample = {0, 0, 1, 1, 1, 1};                                         // [T], -1 would be padding
  const esft::routing_record record{layer, 4, 2, ids, gates, sample};

  using esft::sample_mean;
  using token = esft::token_selection_ratio;  // r_e = (1/T) sum_t 1[e chosen by t] / K: a layer sums to 1
  using gate = esft::average_gate_score;      // g_e = (1/T) sum_t g_{t,e}: a layer sums to the mean gate mass
  bool ok = expect("token, pooled", score<token>(record, sample_mean::pooled), {1. / 4, 5. / 12, 1. / 6, 1. / 6});
  ok &= expect("gate, pooled", score<gate>(record, sample_mean::pooled), {1. / 5, 3. / 8, 3. / 40, 17. / 120});
  // The equations of the paper average per sample first. A short sample then weighs as much as a long one.
  ok &= expect("token, per sample", score<token>(record, sample_mean::per_sample), {5. / 16, 3. / 8, 3. / 16, 1. / 8});
  ok &= expect("gate, per sample", score<gate>(record, sample_mean::per_sample), {23. / 80, 51. / 160, 13. / 160, 17. / 160});

  // Select: the shortest prefix of the experts, best first, whose scores reach p.
  token scorer;
  scorer.observe(record);
  for (const auto& [p, wanted] : {std::pair{0.4, 1}, {0.5, 2}, {0.8, 3}, {1.0, 4}}) {
    const esft::expert_set selected = esft::top_p(esft::top_p_options{.p = p}).select(scorer.scores());
    std::printf("top-p, p = %.1f selects", p);
    for (const esft::expert_index e : selected.layers.at(layer)) std::printf(" %d", e.value);
    std::printf("\n");
    ok &= static_cast<int>(selected.size()) == wanted && selected.layers.at(layer).front() == esft::expert_index{1};
  }
  return ok ? 0 : 1;
}
