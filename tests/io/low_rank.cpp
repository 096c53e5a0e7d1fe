// SPDX-License-Identifier: Apache-2.0
// Low-rank factors in files: their names, the merge in numbers that can be checked by hand, and what the manifest says of them.
#include <esft/io/merge_adapter.hpp>
#include <esft/io/receipt.hpp>

#include <cstddef>
#include <filesystem>
#include <list>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io_test.hpp"

namespace low_rank_tests {

namespace fs = std::filesystem;
using esft::input_error_code;
using esft::low_rank_factor;
using esft::test::expect_input_error;
using esft::test::scratch_directory;
using esft::test::slurp;
using esft::test::spill;

const std::string mlp = "model.layers.0.mlp.";

TEST(low_rank_names, gate_and_up_share_one_pair) {
  EXPECT_EQ(esft::low_rank_stem("model.layers.1.self_attn.q_proj.weight"), "model.layers.1.self_attn.q_proj");
  EXPECT_EQ(esft::low_rank_stem(mlp + "experts.3.gate_proj.weight"), mlp + "experts.3.gate_up_proj");
  EXPECT_EQ(esft::low_rank_stem(mlp + "experts.3.up_proj.weight"), mlp + "experts.3.gate_up_proj");
  EXPECT_EQ(esft::low_rank_name("x.q_proj", low_rank_factor::b), "x.q_proj.lora_B.weight");
  EXPECT_EQ(esft::stem_of_factor("x.q_proj.lora_A.weight"), "x.q_proj");
  EXPECT_TRUE(esft::is_low_rank_name("x.lora_B.weight"));
  EXPECT_FALSE(esft::is_low_rank_name("model.layers.0.mlp.gate.weight"));
  EXPECT_EQ(esft::low_rank_tensors(mlp + "gate_up_proj"), (std::vector{mlp + "gate_proj.weight", mlp + "up_proj.weight"}));
}

TEST(low_rank_scale, is_alpha_over_the_rank_or_its_root) {
  EXPECT_EQ((esft::low_rank_options{.rank = 4, .alpha = 16}.scale()), 4.0);
  EXPECT_EQ((esft::low_rank_options{.rank = 4, .alpha = 16, .rank_stabilised = true}.scale()), 8.0);
}

/// A base with gate, up and down of a dense layer, and factors of rank 1 beside gate and up.
class low_rank_files : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(base);
    esft::write_safetensors(base / "model.safetensors", std::vector{tensor(mlp + "gate_proj.weight", {2, 2}, {1, 2, 3, 4}),
                                                                    tensor(mlp + "up_proj.weight", {2, 2}, {5, 6, 7, 8}),
                                                                    tensor(mlp + "down_proj.weight", {2, 2}, {1, 1, 1, 1})});
    manifest = {"lora", esft::model_directory::open(base).digest(), {a, b}, {}, {}, esft::low_rank_options{.rank = 1, .alpha = 2}};
    save({tensor(a, {1, 2}, {1, 10}), tensor(b, {4, 1}, {1, 2, 3, 4})});
  }
  esft::tensor_source tensor(const std::string& name, esft::tensor_shape shape, std::vector<float> values) {
    const auto& kept = storage.emplace_back(std::move(values));
    return esft::memory_source(name, esft::dtype::float32, std::move(shape), std::as_bytes(std::span<const float>(kept)));
  }
  void save(const std::vector<esft::tensor_source>& tensors) { esft::write_adapter(adapter, manifest, tensors); }
  [[nodiscard]] std::vector<float> merged_values(const std::string& name) const {
    std::vector<float> values(4);
    esft::model_directory::open(merged).read_floats(mlp + name, values);
    return values;
  }

  const std::string a = mlp + "gate_up_proj.lora_A.weight";
  const std::string b = mlp + "gate_up_proj.lora_B.weight";
  std::list<std::vector<float>> storage;
  scratch_directory scratch;
  fs::path base = scratch / "base";
  fs::path adapter = scratch / "adapter";
  fs::path merged = scratch / "merged";
  esft::adapter_manifest manifest;
};

TEST_F(low_rank_files, merge_adds_the_scaled_product_to_each_half) {
  esft::merge_adapter(base, adapter, merged);
  EXPECT_EQ(merged_values("gate_proj.weight"), (std::vector<float>{1 + 2, 2 + 20, 3 + 4, 4 + 40}));
  EXPECT_EQ(merged_values("up_proj.weight"), (std::vector<float>{5 + 6, 6 + 60, 7 + 8, 8 + 80}));
  EXPECT_EQ(merged_values("down_proj.weight"), (std::vector<float>{1, 1, 1, 1}));
  const esft::receipt proof = esft::verify_adapter(base, adapter, merged);
  EXPECT_TRUE(proof.ok()) << esft::write_receipt(proof);
  EXPECT_EQ(proof.planned, 2U);
  EXPECT_EQ(proof.changed, 2U);
  EXPECT_EQ(proof.frozen, 1U);
  EXPECT_EQ(proof.frozen_identical, 1U);
}

TEST_F(low_rank_files, the_scale_follows_the_rank_of_the_shape) {
  save({tensor(a, {2, 2}, {1, 10, 100, 1000}), tensor(b, {4, 2}, {1, 1, 0, 0, 0, 0, 0, 0})});  // rank 2: scale 1
  esft::merge_adapter(base, adapter, merged);
  EXPECT_EQ(merged_values("gate_proj.weight"), (std::vector<float>{1 + 101, 2 + 1010, 3, 4}));
}

TEST_F(low_rank_files, the_manifest_remembers_how) {
  EXPECT_EQ(esft::read_adapter(adapter).manifest().low_rank, manifest.low_rank);
  const std::string good = slurp(adapter / "esft.json");
  EXPECT_NE(good.find("\"format_version\": 2"), std::string::npos);  // what knows version 1 only must not ignore the factors
  std::string text = good;
  text.replace(text.find("\"rank\": 1"), 9, "\"rank\": 0");
  spill(adapter / "esft.json", text);
  expect_input_error(input_error_code::out_of_range, [&] { esft::read_adapter(adapter); }, "rank");
  spill(adapter / "esft.json", good);
  EXPECT_NO_THROW(esft::read_adapter(adapter));
}

TEST_F(low_rank_files, what_does_not_fit_is_refused_and_named) {
  const auto refused = [&](const std::vector<esft::tensor_source>& tensors, const char* words) {
    save(tensors);
    EXPECT_FALSE(esft::verify_adapter(base, adapter).ok()) << words;
    expect_input_error(input_error_code::shape_mismatch, [&] { esft::merge_adapter(base, adapter, merged); }, words);
    EXPECT_FALSE(fs::exists(merged));
  };
  refused({tensor(a, {1, 3}, {1, 2, 3}), tensor(b, {4, 1}, {1, 2, 3, 4})}, "[1, 3]");
  refused({tensor(a, {1, 2}, {1, 2}), tensor(b, {3, 1}, {1, 2, 3})}, "3 rows");
  refused({tensor(a, {1, 2}, {1, 2}), tensor(b, {2, 2}, {1, 2, 3, 4})}, "[2, 2]");
  refused({tensor(a, {1, 2}, {1, 2})}, "without lora_B");
  refused({tensor("x.lora_A.weight", {1, 2}, {1, 2}), tensor("x.lora_B.weight", {2, 1}, {1, 2})}, "x.weight");
  save({tensor(a, {1, 2}, {1, 10}), tensor(b, {4, 1}, {1, 2, 3, 4})});
  EXPECT_TRUE(esft::verify_adapter(base, adapter).ok());  // the twin
}

TEST_F(low_rank_files, a_pair_that_adds_nothing_did_not_change) {
  save({tensor(a, {1, 2}, {1, 10}), tensor(b, {4, 1}, {0, 0, 0, 0})});
  EXPECT_EQ(esft::verify_adapter(base, adapter).unchanged, (std::vector{a, b}));
  save({tensor(a, {1, 2}, {1, 10}), tensor(b, {4, 1}, {0, 0, 0, 1})});
  EXPECT_TRUE(esft::verify_adapter(base, adapter).ok());
}

}  // namespace low_rank_tests
