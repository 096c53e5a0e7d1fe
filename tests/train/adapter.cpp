// SPDX-License-Identifier: Apache-2.0
// Train, save the adapter, reload it on the base: the same model, bit for bit. And what an adapter must not be applied to.
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/io/adapter.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/io/receipt.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/load.hpp>
#include <esft/model/save.hpp>
#include <esft/train/apply_adapter.hpp>
#include <esft/train/memory_estimate.hpp>
#include <esft/train/save_adapter.hpp>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

namespace adapter_tests {

using backend_type = esft::reference_backend<float>;
using model_type = esft::decoder<backend_type>;

class adapters : public testing::TestWithParam<esft::dtype> {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / ("esft_adapters_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_ / "base");
    esft::hf_config hf;
    hf.model_type = "deepseek";
    hf.vocab_size = 24;
    hf.hidden_size = 16;
    hf.intermediate_size = 24;
    hf.num_hidden_layers = 3;
    hf.num_attention_heads = 2;
    hf.num_key_value_heads = 1;
    hf.head_dim = 8;
    hf.max_position_embeddings = 64;
    hf.num_experts = 6;
    hf.num_experts_per_tok = 2;
    hf.num_shared_experts = 1;
    hf.moe_intermediate_size = 8;
    hf.first_k_dense_replace = 1;
    model_type model(backend_, esft::config_from_hf(hf, GetParam()));
    esft::initialise(backend_, model.parameters, model.config, 5);
    esft::write_safetensors(folder_ / "base" / "model.safetensors", esft::tensor_sources(backend_, model, esft::save_scope::everything),
                            {});
    std::ofstream(folder_ / "base" / "config.json") << esft::write_hf_config(hf);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::vector<float> logits(const model_type& model) {
    const std::vector<std::int32_t> tokens{1, 5, 9, 13, 2};
    auto caches = model.make_cache(backend_, 1, 8);
    return model.decode(backend_, caches, 8, tokens, std::vector<std::int32_t>(5, 0), {0, 1, 2, 3, 4});
  }
  /// Trains some experts of the base and saves the adapter.
  model_type trained() {
    const auto base = esft::model_directory::open(folder_ / "base");
    model_type model = esft::load_decoder(backend_, base);
    esft::apply(backend_, model.parameters, tiny::some_experts());
    esft::trainer_options options;
    options.learning_rate = 1e-2;
    esft::trainer<model_type> run(backend_, model, options);
    const auto data = tiny::schedule();
    for (std::uint64_t step = 0; step < 4; ++step) {
      const esft::token_batch batch = data.batch(step);
      run.step(std::span<const esft::token_batch>(&batch, 1));
    }
    esft::save_adapter(folder_ / "adapter", backend_, model, base, tiny::some_experts(), "esft", {{"seed", "5"}});
    return model;
  }

  backend_type backend_;
  std::filesystem::path folder_;
};

TEST_P(adapters, reloading_gives_the_trained_model) {
  const model_type model = trained();
  const auto base = esft::model_directory::open(folder_ / "base");
  model_type reloaded = esft::load_decoder(backend_, base);
  EXPECT_NE(logits(reloaded), logits(model));
  esft::apply_adapter(backend_, reloaded, esft::read_adapter(folder_ / "adapter"));
  EXPECT_EQ(logits(reloaded), logits(model));
  EXPECT_EQ(tiny::values(backend_, reloaded), tiny::values(backend_, model));
  EXPECT_EQ(esft::read_adapter(folder_ / "adapter").names(), esft::planned_names(model, tiny::some_experts()));
}

TEST_P(adapters, saved_they_say_what_was_trained_and_the_receipt_holds) {
  static_cast<void>(trained());
  const esft::adapter_manifest said = esft::read_adapter(folder_ / "adapter").manifest();
  EXPECT_EQ(said.method, "esft");
  EXPECT_EQ(said.experts, (esft::expert_config{{tiny::some_experts().experts}, false, false}));
  EXPECT_EQ(said.properties, (std::map<std::string, std::string>{{"seed", "5"}}));
  EXPECT_EQ(said.low_rank, std::nullopt);
  EXPECT_TRUE(esft::verify_adapter(folder_ / "base", folder_ / "adapter").ok());
}

TEST_P(adapters, of_another_base_of_the_same_shape_are_refused) {
  static_cast<void>(trained());
  const auto base = esft::model_directory::open(folder_ / "base");
  EXPECT_NO_THROW(static_cast<void>(esft::read_adapter(folder_ / "adapter", base)));
  model_type other = esft::load_decoder(backend_, base);
  esft::initialise(backend_, other.parameters, other.config, 6);
  std::filesystem::create_directories(folder_ / "other");
  esft::write_safetensors(folder_ / "other" / "model.safetensors", esft::tensor_sources(backend_, other, esft::save_scope::everything), {});
  std::filesystem::copy_file(folder_ / "base" / "config.json", folder_ / "other" / "config.json");
  try {
    static_cast<void>(esft::read_adapter(folder_ / "adapter", esft::model_directory::open(folder_ / "other")));
    ADD_FAILURE() << "opened";
  } catch (const esft::input_error& problem) {
    EXPECT_EQ(problem.code(), esft::input_error_code::wrong_base);
    for (const std::string part : {"/adapter", "/other", "give the base that it was trained on"}) {
      EXPECT_NE(std::string(problem.what()).find(part), std::string::npos) << problem.what();
    }
  }
}

TEST_P(adapters, what_the_model_does_not_train_is_not_saved) {
  const auto base = esft::model_directory::open(folder_ / "base");
  model_type model = trained();
  esft::trainable_set one_less = tiny::some_experts();
  one_less.experts.erase(esft::layer_index{2});
  EXPECT_THROW(esft::save_adapter(folder_ / "other", backend_, model, base, one_less, "esft"), esft::usage_error);
  esft::for_each_parameter(model.parameters, [](esft::parameter_key, auto& w) { w.freeze(); });
  EXPECT_THROW(esft::save_adapter(folder_ / "other", backend_, model, base, tiny::some_experts(), "esft"), esft::usage_error);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "other"));
}

TEST_P(adapters, of_a_loop_of_ones_own_are_the_trained_model) {
  const auto base = esft::model_directory::open(folder_ / "base");
  model_type model = esft::load_decoder(backend_, base);
  esft::apply(backend_, model.parameters, tiny::some_experts());
  for (const auto& slice : esft::trained_slices(model)) {
    for (esft::index i = 0; i < slice.value.size(); ++i) slice.value[i] *= 1.01F;
  }
  const auto save = [&] { esft::save_adapter(folder_ / "adapter", backend_, model, base, tiny::some_experts(), "own"); };
  if (GetParam() == esft::dtype::bfloat16) {
    EXPECT_THROW(save(), esft::usage_error);  // rounded while it is saved it would be another model
    EXPECT_FALSE(std::filesystem::exists(folder_ / "adapter"));
  }
  esft::round_to_storage(backend_, model);
  save();
  model_type reloaded = esft::load_decoder(backend_, base);
  EXPECT_NE(tiny::values(backend_, reloaded), tiny::values(backend_, model));
  esft::apply_adapter(backend_, reloaded, esft::read_adapter(folder_ / "adapter", base));
  EXPECT_EQ(tiny::values(backend_, reloaded), tiny::values(backend_, model));
}

TEST_P(adapters, a_type_in_which_nothing_is_written_is_named) {
  esft::decoder_config config = trained().config;
  config.storage = esft::dtype::int32;
  const model_type model(backend_, config);
  try {
    static_cast<void>(esft::tensor_sources(backend_, model, esft::save_scope::trained_only));
    ADD_FAILURE() << "written";
  } catch (const esft::error& problem) {
    EXPECT_NE(std::string(problem.what()).find("storage type is int32"), std::string::npos) << problem.what();
  }
}

TEST_P(adapters, a_moved_frozen_tensor_is_named) {
  model_type model = trained();
  const auto base = esft::model_directory::open(folder_ / "base");
  EXPECT_EQ(esft::moved_frozen_tensors(backend_, model, base), std::vector<std::string>{});
  model.parameters.blocks[2].moe.down.value.view()[3].flat()[0] += 1;  // expert 3 of layer 2 is frozen
  model.parameters.blocks[2].moe.down.value.view()[0].flat()[0] += 1;  // expert 0 is trained
  EXPECT_EQ(esft::moved_frozen_tensors(backend_, model, base), std::vector<std::string>{"model.layers.2.mlp.experts.3.down_proj.weight"});
}

TEST_P(adapters, a_tensor_that_does_not_fit_is_named_and_nothing_is_replaced) {
  const auto base = esft::model_directory::open(folder_ / "base");
  model_type model = esft::load_decoder(backend_, base);
  const auto before = tiny::values(backend_, model);
  const std::vector<float> numbers(16 * 8, 0.5F);
  const auto refusal = [&](const std::string& name, esft::tensor_shape shape, esft::dtype type) -> std::string {
    const std::string good = "model.layers.1.mlp.experts.1.down_proj.weight";
    std::vector<esft::tensor_source> sources{{name, type, shape, [&numbers, type, shape](const esft::byte_sink& sink) {
                                                const auto bytes = std::as_bytes(std::span<const float>(numbers));
                                                sink(bytes.first(static_cast<std::size_t>(esft::byte_size(shape, type).value())));
                                              }}};
    if (name != good) {
      sources.push_back({good, GetParam(), {16, 8}, [&numbers](const esft::byte_sink& sink) {
                           const auto bytes = std::as_bytes(std::span<const float>(numbers));
                           sink(bytes.first(16 * 8 * esft::size_of(GetParam())));
                         }});
    }
    std::filesystem::remove_all(folder_ / "foreign");
    esft::write_adapter(folder_ / "foreign", {"esft", "", {}, {}, {}}, sources);
    try {
      esft::apply_adapter(backend_, model, esft::read_adapter(folder_ / "foreign"));
    } catch (const esft::input_error& problem) {
      EXPECT_EQ(tiny::values(backend_, model), before);
      return problem.what();
    }
    return {};
  };
  const std::string name = "model.layers.1.mlp.experts.1.down_proj.weight";
  const esft::dtype other = GetParam() == esft::dtype::float32 ? esft::dtype::bfloat16 : esft::dtype::float32;
  EXPECT_NE(refusal("model.layers.1.mlp.experts.6.down_proj.weight", {16, 8}, GetParam()).find("experts.6."), std::string::npos);
  EXPECT_NE(refusal(name, {8, 16}, GetParam()).find("[8, 16]"), std::string::npos);
  EXPECT_NE(refusal(name, {16, 8}, other).find(name), std::string::npos);
  EXPECT_EQ(refusal(name, {16, 8}, GetParam()), "");  // the twin
  EXPECT_NE(tiny::values(backend_, model), before);
}

INSTANTIATE_TEST_SUITE_P(storage, adapters, testing::Values(esft::dtype::float32, esft::dtype::bfloat16),
                         [](const auto& info) { return info.param == esft::dtype::float32 ? "float32" : "bfloat16"; });

TEST(memory_estimate, state_is_exact_and_activations_shrink_with_recomputation_and_with_higher_layers) {
  backend_type backend;
  model_type model = tiny::model(backend);
  const auto inventory = esft::inventory(model.parameters);
  const auto some = tiny::some_experts();
  esft::apply(backend, model.parameters, some);
  esft::trainer<model_type> run(backend, model, {});
  const auto estimate = esft::estimate_memory(model.config, inventory, some, {64, false});
  EXPECT_EQ(estimate.gradients + estimate.optimizer, run.training_state_bytes());
  EXPECT_EQ(estimate.adapter, esft::trained_elements(some, inventory) * 4);
  const auto full = tiny::everything(model);
  const auto all = esft::estimate_memory(model.config, inventory, full, {64, false});
  EXPECT_EQ(all.optimizer, 3 * all.weights);
  EXPECT_GT(all.activations, estimate.activations);
  EXPECT_LT(esft::estimate_memory(model.config, inventory, full, {64, true}).activations, all.activations);
  EXPECT_EQ(esft::lowest_trained_layer(some, model.config), 1U);
  EXPECT_EQ(esft::lowest_trained_layer(full, model.config), 0U);
  esft::trainable_set head;
  head.whole.insert({esft::parameter_role::head, esft::layer_index{-1}});
  EXPECT_EQ(esft::lowest_trained_layer(head, model.config), 3U);
}

}  // namespace adapter_tests
