// SPDX-License-Identifier: Apache-2.0
// LoRA directories of peft: where each number of the stacked layout lies, names of both layouts, and what is refused by name.
#include "io/io_test.hpp"
#include "io/small_tensors.hpp"

#include <esft/io/peft_export.hpp>
#include <esft/io/peft_import.hpp>

#include <string>
#include <utility>
#include <vector>

namespace io_peft_tests {

using esft::input_error_code;
using esft::test::expect_input_error;
using esft::test::named;
using esft::test::scratch_directory;
using esft::test::spill;
using esft::test::write_tensors;

const std::string layer = "model.layers.4.mlp.";
const std::string theirs = "base_model.model." + layer;

/// Two experts of D = 2, I = 3, and a shared expert.
void write_base(const std::filesystem::path& folder, esft::dtype type = esft::dtype::float32) {
  std::vector<named> tensors;
  for (const std::string block : {"experts.0.", "experts.1.", "shared_experts."}) {
    tensors.push_back({layer + block + "gate_proj.weight", {3, 2}, std::vector<float>(6)});
    tensors.push_back({layer + block + "up_proj.weight", {3, 2}, std::vector<float>(6)});
    tensors.push_back({layer + block + "down_proj.weight", {2, 3}, std::vector<float>(6)});
  }
  write_tensors(folder / "model.safetensors", tensors, type);
}
const std::vector<named> stacked{{theirs + "experts.lora_A.weight", {4, 3}, {0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112}},
                                 {theirs + "experts.lora_B.weight", {2, 4}, {0, 1, 10, 11, 1000, 1001, 1010, 1011}}};
std::string config(const std::string& more = {}) {
  return R"({"peft_type":"LORA","r":2,"lora_alpha":2,"target_modules":[],"target_parameters":["mlp.experts.down_proj"])" + more + "}";
}

std::vector<float> read(const esft::adapter& from, const std::string& name) { return esft::read_factor(from, name).values; }

TEST(peft, stacked_factors_lie_by_expert_in_rows_of_a_and_columns_of_b) {
  const scratch_directory folder;
  write_base(folder / "base");
  write_tensors(folder / "peft/adapter_model.safetensors", stacked);
  spill(folder / "peft/adapter_config.json", config());
  const auto base = esft::model_directory::open(folder / "base");
  const esft::peft_import report = esft::import_peft_adapter(folder / "peft", base, folder / "ours");
  EXPECT_EQ(report.pairs, 2U);
  const esft::adapter ours = esft::read_adapter(folder / "ours");
  const auto delta = [&](const std::string& expert) {
    std::vector<float> w(6);
    esft::add_low_rank(w, read(ours, layer + expert + ".down_proj.lora_A.weight"), read(ours, layer + expert + ".down_proj.lora_B.weight"),
                       2, 1);
    return w;
  };
  EXPECT_EQ(delta("experts.0"), (std::vector<float>{100, 110, 120, 10100, 12110, 14120}));
  EXPECT_EQ(delta("experts.1"), (std::vector<float>{1310, 1322, 1334, 211310, 213322, 215334}));
  EXPECT_EQ(ours.manifest().experts.experts.layers.at(esft::layer_index{4}), (std::vector{esft::expert_index{0}, esft::expert_index{1}}));
  esft::write_peft_adapter(folder / "back", base, ours, esft::peft_layout::parameters);
  write_tensors(folder / "again.safetensors", stacked);
  EXPECT_EQ(esft::test::slurp(folder / "back/adapter_model.safetensors"), esft::test::slurp(folder / "again.safetensors"));
}

TEST(peft, one_half_and_one_expert_are_enough) {
  const scratch_directory folder;
  write_base(folder / "base", esft::dtype::bfloat16);
  write_tensors(folder / "peft/adapter_model.safetensors",
        {{theirs + "experts.1.up_proj.lora_A.weight", {1, 2}, {1, 2}},
         {theirs + "experts.1.up_proj.lora_B.weight", {3, 1}, {1, 2, 3}},
         {theirs + "shared_experts.gate_proj.lora_A.weight", {1, 2}, {1, 2}},
         {theirs + "shared_experts.gate_proj.lora_B.weight", {3, 1}, {4, 5, 6}},
         {theirs + "shared_experts.up_proj.lora_A.weight", {1, 2}, {1, 2}},
         {theirs + "shared_experts.up_proj.lora_B.weight", {3, 1}, {7, 8, 9}},
         {theirs + "shared_experts.down_proj.lora_A.weight", {1, 3}, {1, 2, 3}},
         {theirs + "shared_experts.down_proj.lora_B.weight", {2, 1}, {0, 0}}},
        esft::dtype::bfloat16);
  spill(folder / "peft/adapter_config.json", config(R"(,"rank_pattern":{"up_proj":1},"alpha_pattern":{"shared_experts.gate_proj":4})"));
  const auto base = esft::model_directory::open(folder / "base");
  const esft::peft_import report = esft::import_peft_adapter(folder / "peft", base, folder / "ours");
  EXPECT_EQ(report.pairs, 2U);
  EXPECT_EQ(report.idle, 1U) << "down_proj's B is zero";
  EXPECT_FALSE(report.widened) << "powers of two do not round";
  const esft::adapter ours = esft::read_adapter(folder / "ours");
  EXPECT_EQ(ours.names().size(), 4U);
  EXPECT_EQ(read(ours, layer + "experts.1.gate_up_proj.lora_B.weight"), (std::vector<float>{0, 0, 0, 1, 2, 3}));
  EXPECT_EQ(ours.find(layer + "shared_experts.gate_up_proj.lora_A.weight")->shape, (esft::tensor_shape{2, 2})) << "two scales, two blocks";
  // our scale is alpha / rank = 2 / 2 for rank 2: gate's was 4 / 1, up's 2 / 1
  EXPECT_EQ(read(ours, layer + "shared_experts.gate_up_proj.lora_B.weight"),
            (std::vector<float>{16, 0, 20, 0, 24, 0, 0, 14, 0, 16, 0, 18}));
  EXPECT_EQ(ours.find(layer + "shared_experts.gate_up_proj.lora_B.weight")->type, esft::dtype::bfloat16);
}

TEST(peft, scales_that_would_round_are_kept_in_float32) {
  const scratch_directory folder;
  write_base(folder / "base", esft::dtype::bfloat16);
  write_tensors(folder / "peft/adapter_model.safetensors",
        {{theirs + "experts.0.down_proj.lora_A.weight", {1, 3}, {1, 2, 3}}, {theirs + "experts.0.down_proj.lora_B.weight", {2, 1}, {1, 3}}},
        esft::dtype::bfloat16);
  spill(folder / "peft/adapter_config.json", config(R"(,"alpha_pattern":{".*\\.down_proj":3})"));
  const auto report = esft::import_peft_adapter(folder / "peft", esft::model_directory::open(folder / "base"), folder / "ours");
  EXPECT_TRUE(report.widened);
  const esft::adapter ours = esft::read_adapter(folder / "ours");
  EXPECT_EQ(ours.find(layer + "experts.0.down_proj.lora_A.weight")->type, esft::dtype::float32);
  EXPECT_EQ(read(ours, layer + "experts.0.down_proj.lora_B.weight"), (std::vector<float>{1.5F, 4.5F}));
}

TEST(peft, patterns_that_are_names_are_understood) {
  EXPECT_EQ(esft::detail::literal_pattern("mlp.experts.down_proj"), "mlp.experts.down_proj");
  EXPECT_EQ(esft::detail::literal_pattern(R"(.*\.gate_up_proj)"), "gate_up_proj");
  EXPECT_EQ(esft::detail::literal_pattern(R"(^model\.layers\.0\.q_proj)"), "^model.layers.0.q_proj");
  EXPECT_EQ(esft::detail::literal_pattern("layers.(1|2).q_proj"), "");
  EXPECT_EQ(esft::detail::literal_pattern(".*q_proj"), "");
  esft::peft_config config;
  config.how.alpha = 1;
  config.alphas = {{"^b.q_proj", 2}, {"a.q_proj", 3}, {"q_proj", 4}};
  EXPECT_EQ(esft::alpha_of(config, "b.q_proj"), 2);
  EXPECT_EQ(esft::alpha_of(config, "x.b.q_proj"), 4);
  EXPECT_EQ(esft::alpha_of(config, "x.a.q_proj"), 3);
  EXPECT_EQ(esft::alpha_of(config, "seq_proj"), 1) << "a name ends at a dot";
}

TEST(peft, what_is_not_read_is_refused_by_name) {
  const scratch_directory folder;
  write_base(folder / "base");
  const auto base = esft::model_directory::open(folder / "base");
  const auto refused = [&](input_error_code code, const std::string& text, const std::vector<named>& tensors,
                           const std::string& mentioned) {
    write_tensors(folder / "peft/adapter_model.safetensors", tensors);
    spill(folder / "peft/adapter_config.json", text);
    expect_input_error(
        code, [&] { static_cast<void>(esft::import_peft_adapter(folder / "peft", base, folder / "ours")); }, mentioned);
    EXPECT_FALSE(std::filesystem::exists(folder / "ours"));
  };
  constexpr auto feature = input_error_code::unsupported_feature;
  for (const std::string option : {R"("use_dora":true)", R"("bias":"all")", R"("modules_to_save":["lm_head"])", R"("lora_bias":true)",
                                   R"("trainable_token_indices":[1])", R"("layer_replication":[[0,1]])", R"("fan_in_fan_out":true)",
                                   R"("something_new":{"a":1})", R"("alora_invocation_tokens":[3])"}) {
    refused(feature, config("," + option), stacked, option.substr(1, option.find(':') - 2));
  }
  refused(feature, config(R"(,"init_lora_weights":"pissa_niter_4")"), stacked, "base's own weights");
  refused(feature, config(R"x(,"alpha_pattern":{"layers.(1|2)":4})x"), stacked, "regular expression");
  refused(feature, R"({"peft_type":"LOHA","r":2,"lora_alpha":2})", stacked, "is not LORA");
  refused(input_error_code::missing_key, R"({"peft_type":"LORA","r":2})", stacked, "lora_alpha");
  refused(input_error_code::unknown_tensor, R"({"peft_type":"LORA","r":2,"lora_alpha":2,"target_parameters":["down_projx"]})", stacked,
          "which parameter of the experts");
  const auto with = [](std::vector<named> tensors, named more) {
    tensors.push_back(std::move(more));
    return tensors;
  };
  refused(feature, config(), with(stacked, {"base_model.model.model.embed_tokens.lora_embedding_A", {2, 2}, {1, 2, 3, 4}}), "an embedding");
  refused(feature, config(), with(stacked, {theirs + "gate.lora_magnitude_vector", {2}, {1, 2}}), "DoRA");
  refused(feature, config(), with(stacked, {theirs + "gate.bias", {2}, {1, 2}}), "is a bias");
  refused(feature, config(), with(stacked, {"base_model.model.lm_head.weight", {2}, {1, 2}}), "modules_to_save");
  refused(feature, config(), {stacked[1]}, "no lora_A");
  refused(input_error_code::unknown_tensor, config(), {stacked[0]}, "no lora_B");
  refused(input_error_code::unknown_tensor, config(),
          {{theirs + "router.lora_A.weight", {1, 2}, {1, 2}}, {theirs + "router.lora_B.weight", {2, 1}, {1, 2}}}, "has no matrix");
  refused(input_error_code::shape_mismatch, config(),
          {{theirs + "experts.lora_A.weight", {3, 3}, std::vector<float>(9)},
           {theirs + "experts.lora_B.weight", {2, 3}, std::vector<float>(6)}},
          "do not divide among the 2 experts");
  refused(
      input_error_code::shape_mismatch, config(),
      {{theirs + "experts.0.up_proj.lora_A.weight", {1, 3}, {1, 2, 3}}, {theirs + "experts.0.up_proj.lora_B.weight", {3, 1}, {1, 2, 3}}},
      "do not fit a matrix [3, 2]");
  refused(input_error_code::wrong_base, config(),
          {{theirs + "shared_experts.down_proj.lora_A.weight", {1, 3}, {1, 2, 3}},
           {theirs + "shared_experts.down_proj.lora_B.weight", {2, 1}, {1, 2}},
           {theirs + "shared_experts.down_proj.base_layer.weight", {2, 3}, {1, 2, 3, 4, 5, 6}}},
          "differs from the base");
  refused(input_error_code::duplicate_key, config(),
          with(with(stacked, {theirs + "experts.0.down_proj.lora_A.weight", {1, 3}, {1, 2, 3}}),
               {theirs + "experts.0.down_proj.lora_B.weight", {2, 1}, {1, 2}}),
          "two pairs");
  refused(
      input_error_code::nothing_to_load, config(),
      {{theirs + "experts.0.down_proj.lora_A.weight", {1, 3}, {1, 2, 3}}, {theirs + "experts.0.down_proj.lora_B.weight", {2, 1}, {0, 0}}},
      "before it was trained");
}

}  // namespace io_peft_tests
