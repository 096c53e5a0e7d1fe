// SPDX-License-Identifier: Apache-2.0
// Training low-rank experts: only they and their routers move, a resumed run gives the same bits, the adapter reloads to the trained model,
// and merging is refused in words.
#include "scratch_directory.hpp"
#include "train/tiny_model.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/io/merge_adapter.hpp>
#include <esft/io/receipt.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/load.hpp>
#include <esft/model/save.hpp>
#include <esft/peft/plans/hilo.hpp>
#include <esft/train/apply_adapter.hpp>
#include <esft/train/layer_tails.hpp>
#include <esft/train/run_directory.hpp>
#include <esft/train/snapshot.hpp>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace low_rank_mixture_tests {

using backend_type = esft::eigen_backend<float>;
using model_type = esft::decoder<backend_type>;

esft::hf_config small_config() {
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

/// Layer 0 has one pair and no router, layers 1 and 2 have a choice with a null expert.
esft::hilo_plan plan() {
  esft::hilo_plan result;
  result.how = {.alpha = 8, .dropout = 0.1, .seed = 3};
  result.low_rank_experts = {1, 2, 4};
  result.ranks = {2, 4, 3};
  result.active = {2, 2, 3};
  result.null_experts = 1;
  result.balance = 0.01;
  return result;
}

struct session {
  backend_type backend;
  model_type model;
  esft::trainable_set trainable;
  esft::trainer<model_type> run;

  explicit session(int threads = 2)
      : backend(threads), model(fresh(backend)), trainable(plan().trainable(esft::inventory(model.parameters))),
        run((esft::apply(backend, model.parameters, trainable), backend), model, options()) {}

  static model_type fresh(backend_type& b) {
    model_type result(b, esft::config_from_hf(small_config(), esft::dtype::bfloat16));
    esft::initialise(b, result.parameters, result.config, 5);
    return result;
  }
  static esft::trainer_options options() {
    esft::trainer_options result;
    result.learning_rate = 1e-2;
    return result;
  }
  std::vector<double> train(std::int64_t last) {
    std::vector<double> losses;
    esft::run_steps(run, tiny::schedule(11, 2), last, 2, [&](const esft::step_report& step) {
      EXPECT_GT(step.balance_loss, 0);
      losses.push_back(step.loss);
      return true;
    });
    return losses;
  }
  /// Every trained value, in visiting order.
  std::vector<float> values() {
    std::vector<float> all;
    for (const auto& slice : run.optimizer.slices()) {
      std::vector<float> one(static_cast<std::size_t>(slice.value.size()));
      backend.copy_out(slice.value, std::span<float>(one));
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }
};

TEST(training_low_rank_experts, learns_moves_nothing_else_and_resumes_to_the_same_bits) {
  session whole;
  const esft::parameter_snapshot<model_type> before(whole.backend, whole.model);
  const auto first = whole.values();
  const auto losses = whole.train(6);
  EXPECT_LT(losses.back(), 0.97 * losses.front());
  EXPECT_EQ(before.compare(whole.backend, whole.model).frozen_changed, 0U);
  EXPECT_EQ(static_cast<std::int64_t>(first.size()), esft::trained_elements(whole.trainable, esft::inventory(whole.model.parameters)));
  int routers = 0;
  for (const auto& slice : whole.run.optimizer.slices()) routers += slice.key.factor == esft::low_rank_factor::router ? 1 : 0;
  EXPECT_EQ(routers, 2 * (4 + 2));  // of attention and shared experts, in the two layers that have a choice
  const esft::test::scratch_directory directory;
  session begun(1);
  static_cast<void>(begun.train(2));
  esft::save_checkpoint(directory.path(), begun.backend, begun.run, {{"seed", "1"}});
  session resumed;
  ASSERT_TRUE(esft::resume_from_checkpoint(directory.path(), resumed.backend, resumed.run, {{"seed", "1"}}).has_value());
  static_cast<void>(resumed.train(6));
  EXPECT_EQ(resumed.values(), whole.values());
  before.restore(whole.backend, whole.model);
  esft::for_each_parameter(whole.model.parameters, [](esft::parameter_key, auto& w) { EXPECT_FALSE(w.low_rank || w.mixture); });
}

/// A base on disk, low-rank experts trained beside it, and their adapter.
class low_rank_expert_files : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(base());
    auto model = session::fresh(backend_);
    esft::write_safetensors(base() / "model.safetensors", esft::tensor_sources(backend_, model, esft::save_scope::everything), {});
    std::ofstream(base() / "config.json") << esft::write_hf_config(small_config());
    static_cast<void>(trained_.train(4));
    manifest_ = {"hilo", esft::model_directory::open(base()).digest(), esft::planned_names(trained_.model, trained_.trainable),
                 {}, {}, plan().how, {{esft::layer_index{1}, 2}, {esft::layer_index{2}, 3}}};
    esft::write_adapter(adapter(), manifest_, sources());
  }
  [[nodiscard]] std::vector<esft::tensor_source> sources() {
    return esft::tensor_sources(trained_.backend, trained_.model, esft::save_scope::trained_only);
  }
  [[nodiscard]] std::filesystem::path base() const { return folder_ / "base"; }
  [[nodiscard]] std::filesystem::path adapter() const { return folder_ / "adapter"; }
  [[nodiscard]] model_type load() { return esft::load_decoder(backend_, esft::model_directory::open(base())); }
  [[nodiscard]] std::vector<float> logits(const model_type& model) {
    auto caches = model.make_cache(backend_, 1, 8);
    return model.decode(backend_, caches, 8, {1, 5, 9, 13, 2}, std::vector<std::int32_t>(5, 0), {0, 1, 2, 3, 4});
  }

  esft::test::scratch_directory folder_;
  backend_type backend_{2};
  session trained_;
  esft::adapter_manifest manifest_;
};

TEST_F(low_rank_expert_files, reload_to_the_trained_model_and_are_verified) {
  const auto read = esft::read_adapter(adapter());
  EXPECT_EQ(read.names(), manifest_.planned);
  EXPECT_EQ(read.manifest().low_rank_active, manifest_.low_rank_active);
  EXPECT_EQ(read.find("model.layers.2.self_attn.q_proj.lora_experts.3.lora_A.weight")->shape, (esft::tensor_shape{3, 64}));
  EXPECT_EQ(read.find("model.layers.2.self_attn.q_proj.lora_router.weight")->shape, (esft::tensor_shape{5, 64}));
  EXPECT_EQ(read.find("model.layers.0.self_attn.q_proj.lora_A.weight")->shape, (esft::tensor_shape{2, 64}));
  auto model = load();
  const auto without = logits(model);
  esft::apply_adapter(backend_, model, read);
  EXPECT_EQ(logits(model), logits(trained_.model));
  EXPECT_NE(logits(model), without);
  const esft::receipt proof = esft::verify_adapter(base(), adapter());
  EXPECT_TRUE(proof.ok()) << esft::write_receipt(proof);
  EXPECT_EQ(proof.changed + proof.idle.size(), manifest_.planned.size());
}

TEST_F(low_rank_expert_files, cannot_be_merged) {
  const auto refused = [&](const auto& call) -> std::string {
    try {
      call();
    } catch (const esft::usage_error& problem) {
      return problem.what();
    }
    return {};
  };
  EXPECT_THAT(refused([&] { esft::merge_adapter(base(), adapter(), folder_ / "merged"); }), testing::HasSubstr("no merged matrix"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "merged"));
  EXPECT_THAT(refused([&] { static_cast<void>(esft::verify_adapter(base(), adapter(), base())); }), testing::HasSubstr("no merged matrix"));
  EXPECT_EQ(refused([&] { static_cast<void>(esft::verify_adapter(base(), adapter())); }), "");  // the twin
}

TEST_F(low_rank_expert_files, without_their_router_a_pair_or_the_active_count_are_refused) {
  auto model = load();
  const auto before = logits(model);
  const auto refuses = [&](const esft::adapter_manifest& manifest, const std::vector<esft::tensor_source>& tensors) {
    esft::write_adapter(adapter(), manifest, tensors);
    EXPECT_THROW(esft::apply_adapter(backend_, model, esft::read_adapter(adapter())), esft::input_error);
    EXPECT_EQ(logits(model), before);  // and nothing stays attached
  };
  auto unsaid = manifest_;
  unsaid.low_rank_active.clear();
  refuses(unsaid, sources());
  auto too_many = manifest_;
  too_many.low_rank_active[esft::layer_index{2}] = 6;
  refuses(too_many, sources());
  const auto without = [&](const std::string& name) {
    auto some = sources();
    std::erase_if(some, [&](const auto& source) { return source.name == name; });
    return some;
  };
  const std::string query = "model.layers.2.self_attn.q_proj.";
  refuses(manifest_, without(query + "lora_router.weight"));
  EXPECT_FALSE(esft::verify_adapter(base(), adapter()).foreign.empty());
  refuses(manifest_, without(query + "lora_experts.1.lora_B.weight"));
  EXPECT_FALSE(esft::verify_adapter(base(), adapter()).ok());
  esft::write_adapter(adapter(), manifest_, sources());
  EXPECT_NO_THROW(esft::apply_adapter(backend_, model, esft::read_adapter(adapter())));  // the twin
}

TEST_F(low_rank_expert_files, untrained_are_found_out_and_pairs_never_chosen_are_listed) {
  session untrained;
  esft::write_adapter(adapter(), manifest_, esft::tensor_sources(untrained.backend, untrained.model, esft::save_scope::trained_only));
  const esft::receipt proof = esft::verify_adapter(base(), adapter());
  EXPECT_FALSE(proof.ok());
  EXPECT_EQ(proof.changed, 0U);
  EXPECT_EQ(proof.unchanged, manifest_.planned);
  const std::string idle = "model.layers.2.self_attn.q_proj.lora_experts.1.lora_B.weight";
  auto some = sources();
  const std::vector<float> zeros(64 * 3);
  for (auto& source : some) {
    if (source.name == idle) {
      source.write = [&](const esft::byte_sink& sink) {
        const std::vector<esft::bf16> stored(zeros.begin(), zeros.end());
        sink(std::as_bytes(std::span<const esft::bf16>(stored)));
      };
    }
  }
  esft::write_adapter(adapter(), manifest_, some);
  const esft::receipt one_idle = esft::verify_adapter(base(), adapter());
  EXPECT_TRUE(one_idle.ok()) << esft::write_receipt(one_idle);
  EXPECT_THAT(one_idle.idle, testing::Contains(idle));
}

TEST_F(low_rank_expert_files, spectra_of_the_base_allocate_low_rank_experts) {
  const auto inventory = esft::inventory(trained_.model.parameters);
  const auto tails = esft::layer_tails(esft::model_directory::open(base()), inventory, {});
  ASSERT_EQ(tails.size(), 3U);
  for (const double alpha : tails) EXPECT_GT(alpha, 1);
  const auto counts = esft::allocate_by_quality(tails, 2.5, 12);
  EXPECT_EQ(counts[0] + counts[1] + counts[2], 12);
  EXPECT_THROW(static_cast<void>(esft::layer_tails(esft::model_directory::open(base()), inventory, {esft::parameter_role::dense_down})),
               esft::usage_error);  // the upper layers have none
  // diag(1, sqrt 2, 2, sqrt 8) has the eigenvalues 1, 2, 4, 8
  const float r = std::sqrt(2.0F);
  EXPECT_NEAR(esft::tail_exponent(std::vector<float>{1, 0, 0, 0, 0, r, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2 * r}, 4, 4), 1.961797, 1e-6);
}

}  // namespace low_rank_mixture_tests
