// SPDX-License-Identifier: Apache-2.0
// Balance without a loss: after each step the biases of sigmoid routers move by their experts' load; they are planned, saved and resumed.
#include "scratch_directory.hpp"
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/core/error.hpp>
#include <esft/io/adapter.hpp>
#include <esft/io/receipt.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/load.hpp>
#include <esft/model/save.hpp>
#include <esft/peft/plan.hpp>
#include <esft/train/apply_adapter.hpp>
#include <esft/train/run_directory.hpp>
#include <esft/train/snapshot.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace moving_biases_tests {

using backend_type = esft::reference_backend<float>;
using model_type = esft::decoder<backend_type>;
using bias_map = std::map<std::int32_t, std::vector<float>>;

constexpr const char* bias_of_layer_2 = "model.layers.2.mlp.gate.e_score_correction_bias";
constexpr const char* shape = R"({"model_type":"deepseek_v3","vocab_size":24,"hidden_size":16,"intermediate_size":24,
  "num_hidden_layers":3,"num_attention_heads":2,"num_key_value_heads":2,"max_position_embeddings":64,"rms_norm_eps":1e-6,
  "num_experts_per_tok":2,"n_routed_experts":6,"n_shared_experts":1,"moe_intermediate_size":8,"first_k_dense_replace":1,
  "qk_nope_head_dim":4,"qk_rope_head_dim":2,"v_head_dim":4,"kv_lora_rank":6,"q_lora_rank":5,"topk_method":"noaux_tc",
  "scoring_func":"sigmoid","n_group":1,"topk_group":1,"norm_topk_prob":true,"routed_scaling_factor":2.5})";

esft::trainable_set biases_and(esft::trainable_set set, bool move = true) {
  if (move) set.whole.insert({esft::parameter_role::choice_bias, esft::layer_index{1}});
  if (move) set.whole.insert({esft::parameter_role::choice_bias, esft::layer_index{2}});
  return set;
}

esft::trainer_options options(double step = 0.25) {
  esft::trainer_options result;
  result.learning_rate = 1e-2;
  result.bias_step = step;
  return result;
}

class moving_biases : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(base());
    model_type model(backend_, esft::config_from_hf(esft::parse_hf_config(shape, "config.json"), esft::dtype::bfloat16));
    esft::initialise(backend_, model.parameters, model.config, 5);
    esft::write_safetensors(base() / "model.safetensors", esft::tensor_sources(backend_, model, esft::save_scope::everything), {});
    std::ofstream(base() / "config.json") << shape;
  }

  [[nodiscard]] std::filesystem::path base() const { return folder_.path() / "base"; }
  [[nodiscard]] model_type load() { return esft::load_decoder(backend_, esft::model_directory::open(base())); }
  static bias_map biases(const model_type& model) {
    bias_map result;
    esft::for_each_buffer(model.parameters, [&](esft::parameter_key key, const auto& b) {
      for (esft::index e = 0; e < b.value.size(); ++e) result[key.layer.value].push_back(b.value.view()[e]);
    });
    return result;
  }
  /// The biases after a step over these batches, by counting what the model chooses before it.
  bias_map expected(const model_type& model, const std::vector<esft::token_batch>& batches, double step) {
    bias_map result = biases(model);
    std::map<std::int32_t, std::vector<std::int64_t>> load;
    for (const auto& batch : batches) {
      static_cast<void>(model.evaluate(backend_, batch, [&](const esft::routing_record& record) {
        auto& here = load[record.layer.value];
        here.resize(6);
        for (std::size_t i = 0; i < record.ids.size(); ++i) {
          if (batch.sample[i / 2] >= 0) ++here[static_cast<std::size_t>(record.ids[i])];
        }
      }));
    }
    for (auto& [layer, bias] : result) esft::balance_bias(bias, load.at(layer), step);
    return result;
  }

  backend_type backend_;
  esft::test::scratch_directory folder_;
};

TEST_F(moving_biases, move_by_the_load_of_the_whole_step) {
  const auto data = tiny::schedule();
  for (const double step : {0.25, -0.125}) {
    model_type model = load();
    esft::apply(backend_, model.parameters, biases_and(tiny::some_experts()));
    esft::trainer<model_type> run(backend_, model, options(step));
    const bias_map begin = biases(model);
    for (std::uint64_t i = 0; i < 3; ++i) {
      const std::vector<esft::token_batch> batches{data.batch(2 * i), data.batch(2 * i + 1)};
      const bias_map wanted = expected(model, batches, step);
      static_cast<void>(run.step(batches));
      EXPECT_EQ(biases(model), wanted);
    }
    EXPECT_NE(biases(model), begin);
  }
}

TEST_F(moving_biases, are_the_same_with_recomputation) {
  const auto data = tiny::schedule();
  std::vector<bias_map> result;
  for (const bool recompute : {false, true}) {
    model_type model = load();
    esft::apply(backend_, model.parameters, biases_and(tiny::some_experts()));
    auto how = options();
    how.recompute = recompute;
    esft::trainer<model_type> run(backend_, model, how);
    for (std::uint64_t i = 0; i < 2; ++i) static_cast<void>(run.step(std::vector{data.batch(i)}));
    result.push_back(biases(model));
  }
  EXPECT_EQ(result[0], result[1]);
}

TEST_F(moving_biases, stay_where_they_are_in_a_step_that_is_skipped) {
  const auto data = tiny::schedule();
  model_type model = load();
  esft::apply(backend_, model.parameters, biases_and(tiny::some_experts()));
  esft::trainer<model_type> run(backend_, model, options());
  const bias_map begin = biases(model);
  backend_.fill(model.parameters.final_norm.value.view(), std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(run.step(std::vector{data.batch(0)}).skipped);
  EXPECT_EQ(biases(model), begin);
}

TEST_F(moving_biases, are_frozen_unless_named) {
  const auto data = tiny::schedule();
  model_type model = load();
  esft::parameter_snapshot<model_type> snapshot(backend_, model);
  esft::apply(backend_, model.parameters, biases_and(tiny::some_experts()));  // a plan before this one leaves nothing behind
  esft::apply(backend_, model.parameters, tiny::some_experts());
  esft::trainer<model_type> run(backend_, model, options(0));
  const bias_map begin = biases(model);
  static_cast<void>(run.step(std::vector{data.batch(0)}));
  EXPECT_EQ(biases(model), begin);
  EXPECT_EQ(snapshot.compare(backend_, model).frozen_changed, 0U);
  const auto files = esft::model_directory::open(base());
  EXPECT_EQ(esft::moved_frozen_tensors(backend_, model, files), std::vector<std::string>{});
  model.parameters.blocks[2].moe.choice_bias.value.view()[3] += 1;
  EXPECT_EQ(esft::moved_frozen_tensors(backend_, model, files), std::vector<std::string>{bias_of_layer_2});
  EXPECT_EQ(snapshot.compare(backend_, model).frozen_changed, 1U);
  snapshot.restore(backend_, model);
  EXPECT_EQ(biases(model), begin);
}

TEST_F(moving_biases, need_a_step_and_a_name) {
  model_type model = load();
  using trainer_type = esft::trainer<model_type>;
  esft::apply(backend_, model.parameters, tiny::some_experts());
  EXPECT_THROW(trainer_type(backend_, model, options(0.1)), esft::usage_error);
  EXPECT_NO_THROW(trainer_type(backend_, model, options(0)));
  esft::apply(backend_, model.parameters, biases_and(tiny::some_experts()));
  EXPECT_THROW(trainer_type(backend_, model, options(0)), esft::usage_error);
  EXPECT_NO_THROW(trainer_type(backend_, model, options(0.1)));
  auto other = tiny::model(backend_);  // softmax routers have no such biases
  EXPECT_THROW(esft::apply(backend_, other.parameters, biases_and(tiny::some_experts())), esft::usage_error);
}

TEST_F(moving_biases, what_is_planned_is_what_changed_and_what_is_saved) {
  const auto set = biases_and(tiny::some_experts());
  const auto data = tiny::schedule();
  const auto files = esft::model_directory::open(base());
  model_type model = load();
  esft::parameter_snapshot<model_type> snapshot(backend_, model);
  esft::apply(backend_, model.parameters, set);
  esft::trainer<model_type> run(backend_, model, options());
  // An odd number of steps: steps to and fro can end where they began.
  for (std::uint64_t i = 0; i < 5; ++i) static_cast<void>(run.step(std::vector{data.batch(i)}));

  const auto planned = esft::planned_names(model, set);
  EXPECT_EQ(std::count(planned.begin(), planned.end(), "model.layers.1.mlp.gate.e_score_correction_bias"), 1);
  EXPECT_EQ(std::count(planned.begin(), planned.end(), bias_of_layer_2), 1);
  esft::adapter_manifest manifest{"esft", files.digest(), planned, {}, {}};
  manifest.experts.experts.layers = tiny::some_experts().experts;
  const auto place = folder_.path() / "adapter";
  esft::write_adapter(place, manifest, esft::tensor_sources(backend_, model, esft::save_scope::trained_only));
  const auto adapter = esft::read_adapter(place);
  EXPECT_EQ(adapter.names(), planned);
  const esft::receipt proof = esft::verify_adapter(base(), place);
  EXPECT_TRUE(proof.ok()) << esft::write_receipt(proof);
  EXPECT_EQ(esft::moved_frozen_tensors(backend_, model, files), std::vector<std::string>{});
  const auto changes = snapshot.compare(backend_, model);
  EXPECT_EQ(changes.frozen_changed, 0U);
  EXPECT_EQ(changes.trained_unchanged, 0U);

  model_type reloaded = load();
  EXPECT_NE(biases(reloaded), biases(model));
  esft::apply_adapter(backend_, reloaded, adapter);
  EXPECT_EQ(biases(reloaded), biases(model));
  EXPECT_EQ(tiny::values(backend_, reloaded), tiny::values(backend_, model));
}

TEST_F(moving_biases, resume_where_they_were) {
  const auto data = tiny::schedule();
  const auto set = biases_and(tiny::some_experts());
  const auto run_to = [&](const std::filesystem::path& place, std::int64_t steps) {
    model_type model = load();
    esft::apply(backend_, model.parameters, set);
    esft::trainer<model_type> run(backend_, model, options());
    std::filesystem::create_directories(place);
    static_cast<void>(esft::run_in_directory(backend_, run, data, {place, steps, 1, 0, true, {}}));
    return std::pair(biases(model), tiny::values(backend_, model));
  };
  const auto whole = run_to(folder_.path() / "whole", 5);
  static_cast<void>(run_to(folder_.path() / "parts", 2));
  EXPECT_EQ(run_to(folder_.path() / "parts", 5), whole);
}

}  // namespace moving_biases_tests
