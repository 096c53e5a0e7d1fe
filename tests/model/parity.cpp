// SPDX-License-Identifier: Apache-2.0
// A model large enough to have many tiles and remainders: every backend against the plain loops in double.
#include "backend_list.hpp"
#include "tiny_model.hpp"

namespace model_parity_tests {

/// Extents that no tile size divides.
esft::decoder_config odd_config() {
  auto config = esft_test::tiny_config();
  config.vocabulary = 67;
  config.width = 44;
  config.dense_width = 37;
  config.expert_width = 19;
  config.experts = 9;
  config.active = 3;
  config.shared_width = 21;
  config.attention = {6, 2, 10, 1e4, 1e-6, esft::query_key_norm::per_head};
  return config;
}

/// Documents of 1, 70, 33 and 46 tokens.
esft::token_batch odd_batch() {
  esft::token_batch batch;
  const esft::counter_rng rng(7, esft::rng_stream::test);
  std::int32_t sample = 0;
  for (const std::int32_t length : {1, 70, 33, 46}) {
    const auto begin = static_cast<std::int32_t>(batch.tokens.size());
    for (std::int32_t position = 0; position < length; ++position) {
      const auto counter = static_cast<std::uint64_t>(begin + position);
      batch.tokens.push_back(static_cast<std::int32_t>(rng.below(2 * counter, 67)));
      batch.labels.push_back(counter % 4 == 0 ? esft::ignored_label : static_cast<std::int32_t>(rng.below(2 * counter + 1, 67)));
      batch.position.push_back(position);
      batch.key_begin.push_back(begin);
      batch.sample.push_back(sample);
    }
    ++sample;
  }
  return batch;
}

struct outcome {
  double loss = 0;
  std::vector<std::int32_t> ids;
  esft_test::gradient_map gradients;
};

template <class Backend>
outcome run() {
  Backend backend;
  auto model = esft_test::make_tiny(backend, odd_config());
  esft_test::train_everything(backend, model);
  outcome result;
  static_cast<void>(model.evaluate(backend, odd_batch(), [&](const esft::routing_record& record) {
    result.ids.insert(result.ids.end(), record.ids.begin(), record.ids.end());
  }));
  result.loss = model.accumulate_gradients(backend, odd_batch(), {1.0 / 110, false, 0.01, 1}).loss;
  result.gradients = esft_test::gradients(backend, model);
  return result;
}

template <class Backend>
class model_parity : public ::testing::Test {};
TYPED_TEST_SUITE(model_parity, esft_test::backends, esft_test::backend_names);

TYPED_TEST(model_parity, loss_and_gradients_agree_with_double) {
  static const outcome wanted = run<esft::reference_backend<double>>();
  const outcome got = run<TypeParam>();
  ASSERT_EQ(got.ids, wanted.ids) << "a routing decision hangs on rounding: pick another seed";
  EXPECT_NEAR(got.loss, wanted.loss, 1e-5 * wanted.loss);
  ASSERT_EQ(got.gradients.size(), wanted.gradients.size());
  // float32: sums of up to 150 products, each within 6e-8, through three layers and back
  const double bound = std::is_same_v<esft::value_t<TypeParam>, double> ? 1e-13 : 2e-5;
  for (const auto& [key, gradient] : wanted.gradients) {
    esft_test::expect_close(got.gradients.at(key), gradient, bound, esft_test::to_string(key.first) + " expert " + std::to_string(key.second));
  }
}

}  // namespace model_parity_tests
