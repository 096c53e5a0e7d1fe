// SPDX-License-Identifier: Apache-2.0
// An adapter in which a few dimensions were moved by something else than training: the audit finds exactly those, and sets them back.
#include "scratch_directory.hpp"
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/io/adapter.hpp>
#include <esft/model/save.hpp>
#include <esft/peft/plans/lora.hpp>
#include <esft/relevance/scorers/fisher.hpp>
#include <esft/train/purify.hpp>
#include <esft/train/scoring.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <vector>

namespace purify_tests {

using backend_type = esft::reference_backend<float>;
using model_type = esft::decoder<backend_type>;

class purifying : public testing::Test {
 protected:
  void SetUp() override {
    model_type model = tiny::model(backend_);
    esft::apply(backend_, model.parameters, tiny::some_experts());
    esft::trainer_options options;
    options.learning_rate = 1e-3;
    esft::trainer<model_type> run(backend_, model, options);
    const auto data = tiny::schedule();
    for (std::uint64_t step = 0; step < 6; ++step) {
      const esft::token_batch batch = data.batch(step);
      run.step(std::span<const esft::token_batch>(&batch, 1));
    }
    planted_.clear();
    auto& down = model.parameters.blocks[2].moe.down;
    const std::int32_t expert = down.selected.front();
    for (const std::size_t at : {3U, 40U, 77U}) {
      down.value.view()[expert].flat()[static_cast<esft::index>(at)] += 0.75F;
      planted_.push_back(at);
    }
    name_ = "model.layers.2.mlp.experts." + std::to_string(expert) + ".down_proj.weight";
    save(model, "adapter");
    poisoned_ = tiny::values(backend_, model);
    for (const auto& document : tiny::documents()) samples_.push_back(one_sample(document));
  }
  void save(model_type& model, const std::string& where) {
    esft::adapter_manifest manifest{"esft", "", esft::planned_names(model, tiny::some_experts()), {}, {}};
    manifest.experts.experts.layers = tiny::some_experts().experts;
    esft::write_adapter(folder_ / where, manifest, esft::tensor_sources(backend_, model, esft::save_scope::trained_only));
  }
  static esft::token_batch one_sample(const esft::training_sample& document) {
    return esft::evaluation_batches<>({document}, {.length = 16}, 1, 20)[0];
  }
  [[nodiscard]] std::vector<float> tensor(const std::string& where, const std::string& name) const {
    const esft::adapter read = esft::read_adapter(folder_ / where);
    std::vector<float> values(16 * 8);
    read.read_floats(name, std::span<float>(values));
    return values;
  }

  esft::test::scratch_directory folder_;
  backend_type backend_;
  model_type base_ = tiny::model(backend_);
  std::vector<std::size_t> planted_;
  std::string name_;
  std::map<esft::parameter_key, std::vector<float>> poisoned_;
  std::vector<esft::token_batch> samples_;
};

TEST_F(purifying, what_was_planted_is_found_and_set_back_and_nothing_else_moves) {
  model_type model = tiny::model(backend_);
  const esft::adapter changes = esft::read_adapter(folder_ / "adapter");
  std::size_t all = 0;
  for (const std::string& name : changes.names()) all += changes.find(name)->element_count();
  const double share = (static_cast<double>(planted_.size()) + 0.5) / static_cast<double>(all);
  const auto found = esft::purify(backend_, model, changes, samples_, {.reset = share});
  ASSERT_EQ(found.size(), changes.names().size());
  EXPECT_EQ(found.front().name, name_);  // the worst comes first
  EXPECT_EQ(found.front().reset, planted_.size());
  for (const auto& one : found) EXPECT_EQ(one.reset, one.name == name_ ? planted_.size() : 0U) << one.name;

  save(model, "clean");
  for (const std::string& name : changes.names()) {
    const auto before = tensor("adapter", name);
    const auto after = tensor("clean", name);
    for (std::size_t i = 0; i < before.size(); ++i) {
      const bool planted = name == name_ && std::count(planted_.begin(), planted_.end(), i) > 0;
      EXPECT_EQ(before[i] != after[i], planted) << name << " " << i;
    }
  }
  const auto expert = model.parameters.blocks[2].moe.down.selected.front();
  for (const std::size_t at : planted_) {
    const auto i = static_cast<esft::index>(at);
    EXPECT_EQ(model.parameters.blocks[2].moe.down.value.view()[expert].flat()[i],
              base_.parameters.blocks[2].moe.down.value.view()[expert].flat()[i]);
  }
}

TEST_F(purifying, only_looking_leaves_the_adapter_as_it_is) {
  model_type model = tiny::model(backend_);
  const auto found = esft::purify(backend_, model, esft::read_adapter(folder_ / "adapter"), samples_, {});
  EXPECT_EQ(tiny::values(backend_, model), poisoned_);
  EXPECT_TRUE(std::all_of(found.begin(), found.end(), [](const esft::tensor_audit& one) { return one.reset == 0; }));
}

TEST_F(purifying, a_share_of_every_tensor) {
  model_type model = tiny::model(backend_);
  const auto found = esft::purify(backend_, model, esft::read_adapter(folder_ / "adapter"), samples_, {.reset = 0.05, .per_tensor = true});
  for (const auto& one : found) EXPECT_EQ(one.reset, one.dimensions / 20) << one.name;
}

/// The scorer of the same name reads its gradients another way.
TEST_F(purifying, the_information_is_that_of_the_fisher_scorer) {
  model_type model = tiny::model(backend_);
  const auto found = esft::purify(backend_, model, esft::read_adapter(folder_ / "adapter"), samples_, {});
  std::map<std::pair<std::int32_t, std::int32_t>, double> information;
  for (const auto& one : found) {
    const std::size_t of_expert = 3 * 16 * 8;
    information[{one.layer.value, one.expert}] += one.information * static_cast<double>(one.dimensions) / static_cast<double>(of_expert);
  }
  esft::scorer_group scorers;
  scorers.add(esft::fisher());
  esft::observe_task(backend_, model, samples_, scorers, {.tokens = esft::scored_tokens::answer});
  const esft::score_table expected = scorers.scores().at("fisher");
  for (const auto& [layer, experts] : tiny::some_experts().experts) {
    for (const esft::expert_index e : experts) {
      const double wanted = expected.layers.at(layer).scores[static_cast<std::size_t>(e.value)];
      EXPECT_NEAR((information[{layer.value, e.value}]), wanted, 1e-6 * wanted) << layer.value << " " << e.value;
    }
  }
}

TEST_F(purifying, low_rank_factors_and_data_without_answers_are_refused) {
  model_type model = tiny::model(backend_);
  auto silent = samples_;
  for (auto& batch : silent) std::fill(batch.labels.begin(), batch.labels.end(), esft::ignored_label);
  EXPECT_THROW(static_cast<void>(esft::purify(backend_, model, esft::read_adapter(folder_ / "adapter"), silent, {})), esft::usage_error);

  esft::lora_plan plan;
  esft::apply(backend_, model.parameters, plan.trainable(esft::inventory(model.parameters)));
  esft::adapter_manifest manifest{"lora", "", {}, {}, {}, esft::low_rank_options{}};
  esft::write_adapter(folder_ / "factors", manifest, esft::tensor_sources(backend_, model, esft::save_scope::trained_only));
  model_type other = tiny::model(backend_);
  EXPECT_THROW(static_cast<void>(esft::purify(backend_, other, esft::read_adapter(folder_ / "factors"), samples_, {})), esft::usage_error);
}

}  // namespace purify_tests
