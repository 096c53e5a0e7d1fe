// SPDX-License-Identifier: Apache-2.0
// Which tokens a token sees: its own document, the past, and in decoding the cache.
#include "backend_list.hpp"
#include "tiny_model.hpp"

#include <cmath>
#include <numeric>

namespace model_sequences_tests {

using esft_test::make_tiny;
using esft_test::tiny_batch;
using esft_test::tiny_config;

template <class Backend>
class sequences : public ::testing::Test {};
TYPED_TEST_SUITE(sequences, esft_test::backends, esft_test::backend_names);

/// Cross-entropy of each token under `labels`, one evaluation per token.
template <class Backend>
std::vector<double> token_losses(Backend& backend, const esft_test::tiny_decoder<Backend>& model, esft::token_batch batch) {
  std::vector<double> losses;
  for (std::size_t t = 0; t < batch.tokens.size(); ++t) {
    std::fill(batch.labels.begin(), batch.labels.end(), esft::ignored_label);
    batch.labels[t] = 5;
    losses.push_back(model.evaluate(backend, batch).loss);
  }
  return losses;
}

/// Whether a loss is the one it was: bit for bit on the host. On a device other tokens change how many rows an expert has, a library may
/// take another kernel for another number of rows, and with it another order of sums; what must not be seen moves a loss by far more.
template <class Backend>
bool same(double loss, double before) {
  if constexpr (Backend::memory_space::host_accessible) return loss == before;
  return std::abs(loss - before) <= 1e-5 * std::abs(before);
}

TYPED_TEST(sequences, packed_documents_do_not_see_each_other) {
  TypeParam backend;
  const auto model = make_tiny(backend, tiny_config());
  const auto batch = tiny_batch();
  const auto before = token_losses(backend, model, batch);
  auto other = batch;
  for (std::size_t t = 4; t < 9; ++t) other.tokens[t] = (other.tokens[t] + 3) % 13;  // the second document
  const auto second_changed = token_losses(backend, model, other);
  other = batch;
  for (std::size_t t = 0; t < 4; ++t) other.tokens[t] = (other.tokens[t] + 3) % 13;  // the first document
  const auto first_changed = token_losses(backend, model, other);
  for (std::size_t t = 0; t < before.size(); ++t) {
    const bool first = t < 4;
    const bool second = t >= 4 && t < 9;
    EXPECT_EQ(same<TypeParam>(second_changed[t], before[t]), !second) << t;
    EXPECT_EQ(same<TypeParam>(first_changed[t], before[t]), !first) << t;
  }
}

TYPED_TEST(sequences, a_token_does_not_see_the_future) {
  TypeParam backend;
  const auto model = make_tiny(backend, tiny_config());
  auto batch = tiny_batch();
  const auto before = token_losses(backend, model, batch);
  batch.tokens[6] = (batch.tokens[6] + 3) % 13;
  const auto after = token_losses(backend, model, batch);
  for (std::size_t t = 0; t < before.size(); ++t) EXPECT_EQ(same<TypeParam>(after[t], before[t]), t < 6 || t >= 9) << t;
}

TYPED_TEST(sequences, no_gradient_crosses_documents) {
  TypeParam backend;
  auto model = make_tiny(backend, tiny_config());
  esft::trainable_set embedding;
  embedding.whole.insert({esft::parameter_role::embedding, esft::layer_index{-1}});
  esft::apply(backend, model.parameters, embedding);
  auto batch = tiny_batch();
  std::fill(batch.labels.begin() + 4, batch.labels.end(), esft::ignored_label);  // loss on the first document: tokens 1 7 3 12
  static_cast<void>(model.accumulate_gradients(backend, batch, {}));
  const auto gradient = esft_test::to_host(backend, model.parameters.embedding.gradient);
  for (std::size_t token = 0; token < 13; ++token) {
    const auto row = gradient.begin() + static_cast<std::ptrdiff_t>(token) * 8;
    const bool zero = std::all_of(row, row + 8, [](double g) { return g == 0; });
    EXPECT_EQ(zero, token != 1 && token != 7 && token != 3 && token != 12) << token;
  }
}

TYPED_TEST(sequences, a_packed_document_equals_the_document_alone) {
  TypeParam backend;
  const auto model = make_tiny(backend, tiny_config());
  const auto packed = token_losses(backend, model, tiny_batch());
  const esft::token_batch alone{{5, 0, 7, 9, 2}, std::vector<std::int32_t>(5, esft::ignored_label), {0, 1, 2, 3, 4},
                                std::vector<std::int32_t>(5, 0), std::vector<std::int32_t>(5, 0)};
  const auto losses = token_losses(backend, model, alone);
  esft_test::expect_close(losses, {packed.begin() + 4, packed.begin() + 9}, 1e-6, "losses of the document");
}

TYPED_TEST(sequences, decoding_with_a_cache_equals_the_full_forward_pass) {
  TypeParam backend;
  for (const auto norm : {esft::query_key_norm::none, esft::query_key_norm::per_head, esft::query_key_norm::full_width}) {
    auto config = tiny_config();
    config.attention.norm = norm;
    const auto model = make_tiny(backend, config);
    const auto batch = tiny_batch();
    // Both documents side by side, one token of each per call; then all at once.
    auto steps = model.make_cache(backend, 2, 6);
    std::vector<float> by_step(9 * 13);
    for (std::int32_t position = 0; position < 5; ++position) {
      std::vector<std::int32_t> tokens;
      std::vector<std::int32_t> sequence;
      for (std::int32_t s = 0; s < 2; ++s) {
        if (s == 0 && position == 4) continue;  // the first document is over
        tokens.push_back(batch.tokens[static_cast<std::size_t>(4 * s + position)]);
        sequence.push_back(s);
      }
      const auto logits = model.decode(backend, steps, 6, tokens, sequence, std::vector<std::int32_t>(tokens.size(), position));
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        std::copy_n(logits.begin() + static_cast<std::ptrdiff_t>(i * 13), 13, by_step.begin() + (4 * sequence[i] + position) * 13);
      }
    }
    auto whole = model.make_cache(backend, 2, 6);
    const auto at_once = model.decode(backend, whole, 6, {batch.tokens.begin(), batch.tokens.begin() + 9}, {0, 0, 0, 0, 1, 1, 1, 1, 1},
                                      {batch.position.begin(), batch.position.begin() + 9});
    const std::vector<double> a(by_step.begin(), by_step.end());
    const std::vector<double> b(at_once.begin(), at_once.end());
    esft_test::expect_close(a, b, 1e-6, "logits token by token against all at once");

    const auto losses = token_losses(backend, model, batch);
    std::vector<double> from_logits;
    for (std::size_t t = 0; t < 9; ++t) {
      const auto row = b.begin() + static_cast<std::ptrdiff_t>(t * 13);
      const double peak = *std::max_element(row, row + 13);
      const double total = std::accumulate(row, row + 13, 0.0, [&](double sum, double z) { return sum + std::exp(z - peak); });
      from_logits.push_back(peak + std::log(total) - row[5]);
    }
    esft_test::expect_close(from_logits, {losses.begin(), losses.begin() + 9}, 1e-6, "losses from decoded logits against the full pass");
  }
}

TYPED_TEST(sequences, decoding_refuses_a_position_outside_the_cache) {
  TypeParam backend;
  const auto model = make_tiny(backend, tiny_config());
  auto cache = model.make_cache(backend, 1, 2);
  EXPECT_THROW(static_cast<void>(model.decode(backend, cache, 2, {1}, {0}, {2})), esft::contract_violation);
  EXPECT_THROW(static_cast<void>(model.decode(backend, cache, 2, {1}, {0}, {-1})), esft::contract_violation);
  EXPECT_NO_THROW(static_cast<void>(model.decode(backend, cache, 2, {1}, {0}, {1})));
}

TYPED_TEST(sequences, one_token_and_padding_alone_are_legal) {
  TypeParam backend;
  auto model = make_tiny(backend, tiny_config());
  esft_test::train_everything(backend, model);
  const esft::token_batch one{{3}, {7}, {0}, {0}, {0}};
  const auto pass = model.accumulate_gradients(backend, one, {});
  EXPECT_EQ(pass.labelled, 1);
  EXPECT_GT(pass.loss, 0);
  esft_test::train_everything(backend, model);
  const esft::token_batch padding{{0, 0}, {esft::ignored_label, esft::ignored_label}, {0, 1}, {0, 0}, {-1, -1}};
  const auto nothing = model.accumulate_gradients(backend, padding, {1, false, 0.1, 1});
  EXPECT_EQ(nothing.labelled, 0);
  EXPECT_EQ(nothing.loss, 0);
  EXPECT_EQ(nothing.balance_loss, 0);
  for (const auto& [key, gradient] : esft_test::gradients(backend, model)) {
    EXPECT_TRUE(std::all_of(gradient.begin(), gradient.end(), [](double g) { return g == 0; })) << esft_test::to_string(key.first);
  }
}

TYPED_TEST(sequences, the_observer_sees_every_routing_layer_from_below) {
  TypeParam backend;
  const auto model = make_tiny(backend, tiny_config());
  std::vector<int> layers;
  static_cast<void>(model.evaluate(backend, tiny_batch(), [&](const esft::routing_record& record) {
    layers.push_back(record.layer.value);
    EXPECT_EQ(record.experts, 5);
    EXPECT_EQ(record.active, 2);
    EXPECT_EQ(record.ids.size(), 22U);
    EXPECT_EQ(record.weights.size(), 22U);
    const auto samples = tiny_batch().sample;
    EXPECT_TRUE(std::equal(record.sample.begin(), record.sample.end(), samples.begin(), samples.end()));
    for (const float weight : record.weights) EXPECT_TRUE(weight > 0 && weight <= 1);
  }));
  EXPECT_EQ(layers, (std::vector<int>{1, 2}));
}

}  // namespace model_sequences_tests
