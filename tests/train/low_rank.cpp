// SPDX-License-Identifier: Apache-2.0
// Training low-rank factors: only they move, a resumed run gives the same bits, and the adapter reloads, merges and is verified.
#include "scratch_directory.hpp"
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/backends/eigen.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/io/merge_adapter.hpp>
#include <esft/io/receipt.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/load.hpp>
#include <esft/model/save.hpp>
#include <esft/peft/plans/lora.hpp>
#include <esft/train/apply_adapter.hpp>
#include <esft/train/memory_estimate.hpp>
#include <esft/train/run_directory.hpp>
#include <esft/train/snapshot.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace low_rank_tests {

using reference = esft::reference_backend<float>;
using single = esft::eigen_backend<float>;
using half = esft::eigen_backend<esft::bf16>;

/// A model whose extents whole tiles cover, so that the factors stand beside packed weights.
esft::hf_config wide_config() {
  esft::hf_config hf;
  hf.model_type = "deepseek";
  hf.vocab_size = 64;
  hf.hidden_size = 64;
  hf.intermediate_size = 96;
  hf.num_hidden_layers = 3;
  hf.num_attention_heads = 2;
  hf.num_key_value_heads = 1;
  hf.head_dim = 32;
  hf.max_position_embeddings = 64;
  hf.num_experts = 6;
  hf.num_experts_per_tok = 2;
  hf.num_shared_experts = 1;
  hf.moe_intermediate_size = 32;
  hf.first_k_dense_replace = 1;
  return hf;
}

esft::expert_set selected() {
  esft::expert_set set;
  set.layers = tiny::some_experts().experts;
  return set;
}
esft::lora_plan plan(double dropout = 0) {
  return {{.rank = 4, .alpha = 8, .dropout = dropout, .seed = 3},
          esft::low_rank_roles({"attention", "dense", "shared", "experts", "head"}),
          selected()};
}

template <class Backend>
Backend make(int threads) {
  if constexpr (std::is_constructible_v<Backend, int>) {
    return Backend(threads);
  } else {
    return Backend();
  }
}

constexpr std::int64_t total = 6;

template <class Backend>
struct session {
  Backend backend;
  esft::decoder<Backend> model;
  esft::trainable_set trainable;
  esft::trainer<esft::decoder<Backend>> run;

  explicit session(double dropout = 0, double rate = 1e-2, int threads = 2)
      : backend(make<Backend>(threads)), model(fresh(backend)), trainable(plan(dropout).trainable(esft::inventory(model.parameters))),
        run((esft::apply(backend, model.parameters, trainable), backend), model, options(rate)) {}

  static esft::decoder<Backend> fresh(Backend& b) {
    esft::decoder<Backend> result(b, esft::config_from_hf(wide_config(), esft::dtype::bfloat16));
    esft::initialise(b, result.parameters, result.config, 5);
    return result;
  }
  static esft::trainer_options options(double rate) {
    esft::trainer_options result;
    result.learning_rate = rate;
    return result;
  }
  std::vector<double> train(std::int64_t last = total) {
    std::vector<double> losses;
    esft::run_steps(run, tiny::schedule(11, 2), last, 2, [&](const esft::step_report& step) {
      losses.push_back(step.loss);
      return true;
    });
    return losses;
  }
  /// Every factor, in visiting order.
  std::vector<float> factors() {
    std::vector<float> all;
    for (const auto& slice : run.optimizer.slices()) {
      std::vector<float> one(static_cast<std::size_t>(slice.value.size()));
      backend.copy_out(slice.value, std::span<float>(one));
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }
};

template <class Backend>
class training_factors : public testing::Test {};
using backends = testing::Types<reference, single, half>;
TYPED_TEST_SUITE(training_factors, backends);

TYPED_TEST(training_factors, learns_and_moves_nothing_else) {
  session<TypeParam> s;
  const esft::parameter_snapshot<esft::decoder<TypeParam>> before(s.backend, s.model);
  const auto first = s.factors();
  const auto losses = s.train();
  EXPECT_LT(losses.back(), 0.95 * losses.front());
  const auto moved = before.compare(s.backend, s.model);
  EXPECT_EQ(moved.frozen_changed, 0U);
  EXPECT_EQ(moved.trained_changed + moved.trained_unchanged, 0U);  // nothing of the model itself is trained
  EXPECT_NE(s.factors(), first);
  EXPECT_EQ(static_cast<std::int64_t>(first.size()), esft::trained_elements(s.trainable, esft::inventory(s.model.parameters)));
}

TYPED_TEST(training_factors, rate_zero_changes_nothing) {
  session<TypeParam> s(0.2, 0);
  const auto first = s.factors();
  static_cast<void>(s.train(3));
  EXPECT_EQ(s.factors(), first);
}

TYPED_TEST(training_factors, resumes_to_the_same_bits_with_dropout) {
  session<TypeParam> whole(0.2);
  static_cast<void>(whole.train());
  session<TypeParam> without(0.0);
  static_cast<void>(without.train());
  EXPECT_NE(without.factors(), whole.factors());  // the masks do something
  for (const std::int64_t split : {1, 4}) {
    const esft::test::scratch_directory directory;
    session<TypeParam> first(0.2, 1e-2, 1);
    static_cast<void>(first.train(split));
    esft::save_checkpoint(directory.path(), first.backend, first.run, {{"seed", "1"}});
    session<TypeParam> second(0.2);
    ASSERT_TRUE(esft::resume_from_checkpoint(directory.path(), second.backend, second.run, {{"seed", "1"}}).has_value());
    static_cast<void>(second.train());
    EXPECT_EQ(second.factors(), whole.factors()) << "split " << split;
  }
}

TEST(training_factors_in_bf16, follows_training_in_float) {
  session<half> in_half;
  session<single> in_single;
  const auto a = in_half.train();
  const auto b = in_single.train();
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 0.03 * b[i]) << "step " << i + 1;
}

TEST(training_factors_memory, is_estimated_exactly) {
  session<single> s;
  const auto inventory = esft::inventory(s.model.parameters);
  const auto estimate = esft::estimate_memory(s.model.config, inventory, s.trainable, {64, false});
  EXPECT_EQ(estimate.gradients + estimate.optimizer, s.run.training_state_bytes());
  std::int64_t model = 0;
  for (const auto& entry : inventory) model += entry.elements;
  const std::int64_t factors = esft::trained_elements(s.trainable, inventory);
  EXPECT_EQ(estimate.weights, 4 * (model + factors));
  EXPECT_EQ(estimate.adapter, 2 * factors);  // bf16 on disk
  EXPECT_EQ(esft::lowest_trained_layer(s.trainable, s.model.config), 0U);
  esft::trainable_set upper;
  upper.low_rank.emplace(esft::parameter_key{esft::parameter_role::expert_down, esft::layer_index{2}},
                         esft::low_rank_target{{}, {esft::expert_index{1}}});
  EXPECT_EQ(esft::lowest_trained_layer(upper, s.model.config), 2U);
}

/// A base on disk, factors trained beside it, and their adapter.
class factor_files : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(base());
    auto model = session<single>::fresh(backend_);
    esft::write_safetensors(base() / "model.safetensors", esft::tensor_sources(backend_, model, esft::save_scope::everything), {});
    std::ofstream(base() / "config.json") << esft::write_hf_config(wide_config());
    static_cast<void>(trained_.train(6));
    save();
  }
  void save() {
    manifest_ = {"lora", esft::model_directory::open(base()).digest(), esft::planned_names(trained_.model, trained_.trainable),
                 {selected(), false, false}, {}, plan().how};
    esft::write_adapter(adapter(), manifest_, esft::tensor_sources(trained_.backend, trained_.model, esft::save_scope::trained_only));
  }
  [[nodiscard]] std::filesystem::path base() const { return folder_ / "base"; }
  [[nodiscard]] std::filesystem::path adapter() const { return folder_ / "adapter"; }
  [[nodiscard]] std::filesystem::path merged() const { return folder_ / "merged"; }
  [[nodiscard]] esft::decoder<single> load(const std::filesystem::path& from) {
    return esft::load_decoder(backend_, esft::model_directory::open(from));
  }
  [[nodiscard]] std::vector<float> logits(const esft::decoder<single>& model) {
    auto caches = model.make_cache(backend_, 1, 8);
    return model.decode(backend_, caches, 8, {1, 5, 9, 13, 2}, std::vector<std::int32_t>(5, 0), {0, 1, 2, 3, 4});
  }

  esft::test::scratch_directory folder_;
  single backend_{2};
  session<single> trained_;
  esft::adapter_manifest manifest_;
};

TEST_F(factor_files, hold_the_planned_factors_and_reload_to_the_trained_model) {
  const auto read = esft::read_adapter(adapter());
  EXPECT_EQ(read.names(), manifest_.planned);
  EXPECT_EQ(read.manifest().low_rank, plan().how);
  EXPECT_EQ(read.find("model.layers.1.mlp.experts.4.gate_up_proj.lora_B.weight")->shape, (esft::tensor_shape{64, 4}));
  EXPECT_EQ(read.find("model.layers.0.self_attn.q_proj.lora_A.weight")->shape, (esft::tensor_shape{4, 64}));
  EXPECT_EQ(read.find("model.layers.1.mlp.experts.0.gate_up_proj.lora_B.weight"), nullptr);  // not selected
  auto model = load(base());
  const auto without = logits(model);
  esft::apply_adapter(backend_, model, read);
  EXPECT_EQ(logits(model), logits(trained_.model));
  EXPECT_NE(logits(model), without);
  EXPECT_EQ(esft::moved_frozen_tensors(backend_, model, esft::model_directory::open(base())), std::vector<std::string>{});
}

TEST_F(factor_files, merged_the_model_computes_the_same_and_the_receipt_holds) {
  esft::merge_adapter(base(), adapter(), merged());
  const esft::receipt proof = esft::verify_adapter(base(), adapter(), merged());
  EXPECT_TRUE(proof.ok()) << esft::write_receipt(proof);
  EXPECT_EQ(proof.planned, manifest_.planned.size());
  EXPECT_EQ(proof.changed, manifest_.planned.size());
  EXPECT_EQ(proof.saved, manifest_.planned.size());
  EXPECT_EQ(proof.frozen_identical, proof.frozen);
  const auto model = load(merged());
  const auto want = logits(trained_.model);
  const auto got = logits(model);
  double difference = 0;
  double effect = 0;
  const auto before = logits(load(base()));
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i])));
    effect = std::max(effect, std::abs(static_cast<double>(before[i]) - static_cast<double>(want[i])));
  }
  EXPECT_LT(difference, 0.05 * effect);  // the sum is rounded to bf16, the factors were not added up
  EXPECT_GT(effect, 0.1);
}

TEST_F(factor_files, without_training_are_found_out) {
  session<single> untrained;
  esft::write_adapter(adapter(), manifest_, esft::tensor_sources(untrained.backend, untrained.model, esft::save_scope::trained_only));
  const esft::receipt proof = esft::verify_adapter(base(), adapter());
  EXPECT_FALSE(proof.ok());
  EXPECT_EQ(proof.changed, 0U);
  EXPECT_EQ(proof.unchanged, manifest_.planned);  // B is zero: the pair adds nothing
}

TEST_F(factor_files, of_another_shape_or_without_their_pair_are_refused) {
  auto sources = esft::tensor_sources(trained_.backend, trained_.model, esft::save_scope::trained_only);
  const std::string gone = sources.back().name;
  const std::string stem = esft::stem_of_factor(gone);
  sources.pop_back();
  esft::write_adapter(adapter(), manifest_, sources);
  EXPECT_THROW(esft::merge_adapter(base(), adapter(), merged()), esft::input_error);
  EXPECT_EQ(esft::verify_adapter(base(), adapter()).unsaved, std::vector{gone});
  auto model = load(base());
  const auto before = logits(model);
  EXPECT_THROW(esft::apply_adapter(backend_, model, esft::read_adapter(adapter())), esft::input_error);
  EXPECT_EQ(logits(model), before);  // and nothing stays attached

  save();
  manifest_.low_rank.reset();  // a factor without a scale means nothing
  EXPECT_THROW(
      esft::write_adapter(adapter(), manifest_, esft::tensor_sources(trained_.backend, trained_.model, esft::save_scope::trained_only)),
      esft::usage_error);
  const std::filesystem::path manifest = adapter() / esft::adapter_files::manifest;
  std::string text = esft::read_small_file(manifest, 1U << 20U);
  text.replace(text.find("\"low_rank\""), 10, "\"forgotten\"");
  std::ofstream(manifest) << text;
  EXPECT_EQ(esft::verify_adapter(base(), adapter()).foreign, manifest_.planned);
  EXPECT_THROW(esft::apply_adapter(backend_, model, esft::read_adapter(adapter())), esft::input_error);
  EXPECT_THROW(esft::merge_adapter(base(), adapter(), merged()), esft::input_error);
  EXPECT_FALSE(std::filesystem::exists(merged()));
}

TEST_F(factor_files, a_tampered_merge_is_found_out) {
  esft::merge_adapter(base(), adapter(), merged());
  const auto damage = [&](const std::string& name) {
    const auto file = esft::safetensors_file::open(merged() / "model.safetensors");
    std::fstream bytes(merged() / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(file.data_offset() + file.at(name).begin));
    bytes.write("\x11\x11", 2);
  };
  damage("model.layers.1.mlp.experts.4.up_proj.weight");
  EXPECT_EQ(esft::verify_adapter(base(), adapter(), merged()).unmerged,
            std::vector<std::string>{"model.layers.1.mlp.experts.4.up_proj.weight"});
  damage("model.layers.1.mlp.experts.0.up_proj.weight");
  EXPECT_EQ(esft::verify_adapter(base(), adapter(), merged()).moved,
            std::vector<std::string>{"model.layers.1.mlp.experts.0.up_proj.weight"});
}

}  // namespace low_rank_tests
