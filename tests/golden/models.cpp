// SPDX-License-Identifier: Apache-2.0
// Whole tiny models of the families, loaded from their Hugging Face directories: logits, loss, routing and the gradient of every weight
// against transformers and plain PyTorch (deepseek), on every backend.
#include "backend_list.hpp"
#include "golden/whole_models.hpp"
#include "scratch_directory.hpp"

#include <algorithm>
#include <type_traits>

namespace golden_models_tests {

using esft_test::expect_close;
using esft_test::golden_bound;
using esft_test::goldens;

template <class Backend>
class golden_models : public ::testing::Test {};
TYPED_TEST_SUITE(golden_models, esft_test::backends, esft_test::backend_names);

TYPED_TEST(golden_models, logits_loss_and_every_gradient) {
  TypeParam backend;
  const std::vector<std::string> families = esft_test::golden_models();
  EXPECT_GE(families.size(), 22U) << "golden models are missing";
  for (const std::string& family : families) {
    SCOPED_TRACE(family);
    const goldens golden(family + "/golden.safetensors");
    auto model = esft::load_decoder(backend, esft::model_directory::open(esft_test::golden_path(family)));
    EXPECT_EQ(model.config.storage, esft::dtype::float32);
    EXPECT_TRUE(esft::inventory<TypeParam>(model.config) == esft::inventory(model.parameters));
    const auto batch = esft_test::packed(golden);
    const auto shape = golden.shape<2>("tokens");

    auto cache = model.make_cache(backend, shape[0], shape[1]);
    const auto logits = model.decode(backend, cache, shape[1], batch.tokens, batch.sample, batch.position);
    expect_close({logits.begin(), logits.end()}, golden.numbers("logits"), golden_bound, "logits");

    auto grown = model.make_cache(backend, shape[0], shape[1]);
    std::vector<double> one_by_one(logits.size());
    const auto row = static_cast<std::ptrdiff_t>(model.config.vocabulary);
    for (std::int32_t position = 0; position < shape[1]; ++position) {
      std::vector<std::int32_t> tokens;
      std::vector<std::int32_t> sequences;
      for (std::int32_t s = 0; s < shape[0]; ++s) {
        tokens.push_back(batch.tokens[static_cast<std::size_t>(s * shape[1] + position)]);
        sequences.push_back(s);
      }
      const auto next = model.decode(backend, grown, shape[1], tokens, sequences, std::vector<std::int32_t>(tokens.size(), position));
      for (std::int32_t s = 0; s < shape[0]; ++s) {
        std::copy_n(next.begin() + s * row, row, one_by_one.begin() + (s * shape[1] + position) * row);
      }
    }
    expect_close(one_by_one, golden.numbers("logits"), golden_bound, "logits token by token");

    const double loss = golden.numbers("loss")[0];
    esft_test::routing_comparison routing(golden, [](const auto& got, const auto& want, const std::string& name) {
      EXPECT_EQ(got.ids, want.ids) << name;
      expect_close(got.weights, want.weights, golden_bound, name);
    });
    EXPECT_NEAR(model.evaluate(backend, batch, std::ref(routing)).loss, loss, 2e-6 * loss);
    routing.finish(model.config);
    esft::apply(backend, model.parameters, esft::full_plan{}.trainable(esft::inventory(model.parameters)));
    EXPECT_NEAR(model.accumulate_gradients(backend, batch, {}).loss, loss, 2e-6 * loss);
    const auto gradients = esft_test::gradients_by_name(backend, model);
    // The plain loops in float are 9.7e-6 off in one expert of qwen3_moe; a device, and Kokkos, add in another order.
    const bool other_order = !TypeParam::memory_space::host_accessible ||
                             (TypeParam::name == "kokkos" && std::is_same_v<typename TypeParam::value_type, float>);
    const double gradient_bound = other_order ? 2 * golden_bound : golden_bound;
    for (const auto& [name, gradient] : gradients) expect_close(gradient, golden.numbers("d_" + name), gradient_bound, name);
    EXPECT_EQ(gradients.size() + esft_test::buffer_count(model),
              esft::model_directory::open(esft_test::golden_path(family)).names().size());
  }
}

/// A checkpoint with one tensor less, one more, or one of another shape: the message names it, and nothing is loaded in silence.
TEST(golden_loading, names_the_tensor_that_is_missing_unused_or_misshapen) {
  const esft::test::scratch_directory folder;
  std::filesystem::copy_file(esft_test::golden_path("mixtral/config.json"), folder / "config.json");
  const auto whole = esft::safetensors_file::open(esft_test::golden_path("mixtral/model.safetensors"));
  esft::reference_backend<float> backend;
  const std::string one = "model.layers.1.self_attn.k_proj.weight";
  const std::vector<float> further(4);
  const auto load = [&](bool drop, const std::string& add, esft::tensor_shape shape) {
    std::vector<esft::tensor_source> sources;
    for (const esft::tensor_record& record : whole.tensors()) {
      if (!drop || record.name != one) sources.push_back(esft::file_source(whole, record));
    }
    if (!add.empty())
      sources.push_back(esft::memory_source(add, esft::dtype::float32, std::move(shape), std::as_bytes(std::span(further))));
    esft::write_safetensors(folder / "model.safetensors", sources);
    try {
      static_cast<void>(esft::load_decoder(backend, esft::model_directory::open(folder.path())));
      return std::string();
    } catch (const esft::error& problem) {
      return std::string(problem.what());
    }
  };
  EXPECT_EQ(load(false, "", {}), "");  // the twin
  EXPECT_NE(load(true, "", {}).find(one), std::string::npos);
  EXPECT_NE(load(false, "model.layers.1.self_attn.extra.weight", {4}).find("self_attn.extra.weight"), std::string::npos);
  EXPECT_NE(load(true, one, {2, 2}).find(one), std::string::npos);
}

/// Rates of rotary embedding, and a tied head that is there a second time: loaded without, and said. Another head is refused by name.
TEST(golden_loading, takes_what_published_files_carry_beside_the_parameters) {
  const esft::test::scratch_directory folder;
  std::filesystem::copy_file(esft_test::golden_path("deepseek_normalised/config.json"), folder / "config.json");
  const auto whole = esft::safetensors_file::open(esft_test::golden_path("deepseek_normalised/model.safetensors"));
  const esft::tensor_record& embedding = whole.at("model.embed_tokens.weight");
  std::vector<float> head(static_cast<std::size_t>(embedding.element_count()));
  whole.read_floats(embedding, head);
  const std::vector<float> rates{1, 0.5F};
  esft::reference_backend<float> backend;
  const auto load = [&](const std::string& rotary) {
    std::vector<esft::tensor_source> sources;
    for (const esft::tensor_record& record : whole.tensors()) sources.push_back(esft::file_source(whole, record));
    sources.push_back(esft::memory_source("lm_head.weight", esft::dtype::float32, embedding.shape, std::as_bytes(std::span(head))));
    sources.push_back(esft::memory_source(rotary, esft::dtype::float32, {2}, std::as_bytes(std::span(rates))));
    esft::write_safetensors(folder / "model.safetensors", sources);
    esft::unread_tensors unread;
    try {
      static_cast<void>(esft::load_decoder(backend, esft::model_directory::open(folder.path()), &unread));
      std::string all;
      for (const std::string& sentence : unread.sentences()) all += sentence + "\n";
      return all;
    } catch (const esft::error& problem) {
      return std::string(problem.what());
    }
  };
  const std::string name = "model.layers.2.self_attn.rotary_emb.inv_freq";
  EXPECT_EQ(load(name), name + " is not read: the rates of rotary embedding follow from config.json\n"
                               "lm_head.weight is not read: config.json ties the head to model.embed_tokens.weight, of which this is a "
                               "copy, byte for byte\n");
  const std::string unknown = load("model.layers.2.self_attn.rotary_emb.rates");
  EXPECT_NE(unknown.find("rotary_emb.rates and 0 more belong to no parameter"), std::string::npos) << unknown;
  head.back() += 1;
  EXPECT_NE(load(name).find("lm_head.weight differs from model.embed_tokens.weight"), std::string::npos);
}

TEST(golden_quantised, weights_of_four_and_eight_bits_are_refused_by_name) {
  const auto folder = std::filesystem::temp_directory_path() / "esft_quantised";
  std::filesystem::create_directories(folder);
  const std::vector<std::uint8_t> bytes(4);
  esft::reference_backend<float> backend;
  for (const std::string name : {"model.layers.0.mlp.experts.gate_up_proj_blocks", "model.layers.0.mlp.experts.0.up_proj.weight_scale_inv"}) {
    const std::vector<esft::tensor_source> sources{esft::memory_source(name, esft::dtype::uint8, {4}, std::as_bytes(std::span(bytes)))};
    esft::write_safetensors(folder / "model.safetensors", sources);
    try {
      static_cast<void>(esft::load_decoder(backend, esft::model_directory::open(folder)));
      ADD_FAILURE() << name;
    } catch (const esft::error& problem) {
      const std::string text = problem.what();
      EXPECT_NE(text.find(name), std::string::npos) << text;
      EXPECT_NE(text.find("bfloat16"), std::string::npos) << text;
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(golden_configs, say_what_the_families_are) {
  const auto config = [](const std::string& family) {
    return esft::config_from_hf(esft::read_hf_config(esft_test::golden_path(family)), esft::dtype::float32);
  };
  const auto qwen = config("qwen3_moe");
  EXPECT_EQ(qwen.moe_layer, (std::vector<bool>{true, false, true}));
  EXPECT_TRUE(qwen.normalise_topk);
  EXPECT_TRUE(qwen.tied_head);
  EXPECT_EQ(qwen.attention.norm, esft::query_key_norm::per_head);
  EXPECT_EQ(qwen.attention.head_width, 8);
  EXPECT_EQ(qwen.attention.key_value_heads, 2);
  EXPECT_EQ(qwen.shared_width, 0);
  const auto olmoe = config("olmoe");
  EXPECT_EQ(olmoe.moe_layer, (std::vector<bool>{true, true, true}));
  EXPECT_FALSE(olmoe.normalise_topk);
  EXPECT_FALSE(olmoe.tied_head);
  EXPECT_EQ(olmoe.attention.norm, esft::query_key_norm::full_width);
  EXPECT_EQ(olmoe.expert_width, 6);
  EXPECT_EQ(olmoe.norm_epsilon, 1e-5);
  const auto deepseek = config("deepseek");
  EXPECT_EQ(deepseek.moe_layer, (std::vector<bool>{false, true, true}));
  EXPECT_EQ(deepseek.attention.norm, esft::query_key_norm::none);
  EXPECT_EQ(deepseek.shared_width, 12);
  EXPECT_EQ(deepseek.active, 3);
  const auto other = config("deepseek_normalised");
  EXPECT_EQ(other.moe_layer, (std::vector<bool>{true, false, true}));  // every second layer, and no dense ones before
  EXPECT_TRUE(other.normalise_topk);
  EXPECT_TRUE(other.tied_head);
  EXPECT_EQ(other.shared_width, 0);
}

}  // namespace golden_models_tests
