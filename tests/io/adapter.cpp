// SPDX-License-Identifier: Apache-2.0
#include <esft/io/merge_adapter.hpp>
#include <esft/io/receipt.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <list>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io_test.hpp"

namespace adapter_tests {

namespace fs = std::filesystem;
using esft::input_error_code;
using esft::test::expect_input_error;
using esft::test::scratch_directory;
using esft::test::slurp;
using esft::test::spill;

std::string expert_name(int layer, int expert, const char* projection) {
  return "model.layers." + std::to_string(layer) + ".mlp.experts." + std::to_string(expert) + "." + projection + ".weight";
}
const std::vector<std::string> expert_1_of_layer_1 = {expert_name(1, 1, "down_proj"), expert_name(1, 1, "gate_proj"),
                                                      expert_name(1, 1, "up_proj")};

/// A base of two shards with two experts, an adapter that trains expert 1 of layer 1, and helpers that damage them.
class adapter_files_test : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(base);
    std::vector<std::string> first = {"model.embed_tokens.weight", "model.layers.1.mlp.gate.weight",
                                      "model.layers.1.mlp.shared_experts.up_proj.weight"};
    std::vector<std::string> second;
    for (const int expert : {0, 1}) {
      for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) second.push_back(expert_name(1, expert, projection));
    }
    write(base / "model-00001-of-00002.safetensors", first, 0);
    write(base / "model-00002-of-00002.safetensors", second, 0);
    std::string map;
    for (const auto& name : first) map += "\"" + name + "\":\"model-00001-of-00002.safetensors\",";
    for (const auto& name : second) map += "\"" + name + "\":\"model-00002-of-00002.safetensors\",";
    map.pop_back();
    spill(base / "model.safetensors.index.json", R"({"weight_map":{)" + map + "}}");
    spill(base / "config.json", "{\"x\":1}");
    spill(base / "tokenizer.json", "{}");
    manifest.method = "esft";
    manifest.planned = expert_1_of_layer_1;
    manifest.base_digest = esft::model_directory::open(base).digest();
    manifest.experts.experts.layers[esft::layer_index(1)] = {esft::expert_index(1)};
    manifest.properties = {{"seed", "7"}};
    save(expert_1_of_layer_1, 1);
  }

  /// Tensors of two bf16 values that depend on the name and on `version`.
  std::vector<esft::tensor_source> sources(const std::vector<std::string>& names, int version, esft::tensor_shape shape = {1, 2}) {
    std::vector<esft::tensor_source> result;
    for (const std::string& name : names) {
      auto& values = storage.emplace_back(2, static_cast<std::uint16_t>(0x3f80 + version));
      values[1] = static_cast<std::uint16_t>(std::hash<std::string>{}(name) & 0x3fffU);
      result.push_back(esft::memory_source(name, esft::dtype::bfloat16, shape, std::as_bytes(std::span(values))));
    }
    return result;
  }
  void write(const fs::path& path, const std::vector<std::string>& names, int version) {
    esft::write_safetensors(path, sources(names, version));
  }
  void save(const std::vector<std::string>& names, int version) { esft::write_adapter(adapter, manifest, sources(names, version)); }

  std::list<std::vector<std::uint16_t>> storage;
  scratch_directory scratch;
  fs::path base = scratch / "base";
  fs::path adapter = scratch / "adapter";
  fs::path merged = scratch / "merged";
  esft::adapter_manifest manifest;
};

TEST_F(adapter_files_test, an_adapter_reads_back) {
  const auto read = esft::read_adapter(adapter);
  EXPECT_FALSE(read.is_official());
  EXPECT_EQ(read.names(), expert_1_of_layer_1);
  EXPECT_EQ(read.manifest().planned, manifest.planned);
  EXPECT_EQ(read.manifest().base_digest, manifest.base_digest);
  EXPECT_EQ(read.manifest().experts, manifest.experts);
  EXPECT_EQ(read.manifest().properties, manifest.properties);
  EXPECT_NO_THROW(read.verify_digests());
  std::vector<float> values(2);
  read.read_floats(expert_1_of_layer_1[0], values);
  EXPECT_EQ(values[0], 1.0078125F);
  expect_input_error(input_error_code::unknown_tensor, [&] { read.read_floats("x", values); });
}

TEST_F(adapter_files_test, a_new_adapter_replaces_the_old_one_whole) {
  save(expert_1_of_layer_1, 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(adapter), {}), 3);
  std::vector<float> values(2);
  esft::read_adapter(adapter).read_floats(expert_1_of_layer_1[0], values);
  EXPECT_EQ(values[0], 1.015625F);
  std::vector<esft::tensor_source> failing = sources(expert_1_of_layer_1, 3);
  failing[1].write = [](const esft::byte_sink&) { throw std::runtime_error("out of memory"); };
  EXPECT_THROW(esft::write_adapter(adapter, manifest, failing), std::runtime_error);
  esft::read_adapter(adapter).read_floats(expert_1_of_layer_1[0], values);
  EXPECT_EQ(values[0], 1.015625F) << "a failed save leaves the adapter that was there";
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 2) << "no leftovers";
}

TEST_F(adapter_files_test, what_is_not_finite_is_neither_saved_nor_merged) {
  const std::vector<std::string> before = esft::read_adapter(adapter).names();
  for (const std::uint16_t bits : {std::uint16_t{0x7fc0}, std::uint16_t{0xff80}}) {  // NaN, minus infinity
    std::vector<std::uint16_t> values{0x3f80, bits};
    std::vector<esft::tensor_source> diverged = sources(expert_1_of_layer_1, 2);
    diverged.back().write = [&](const esft::byte_sink& sink) { sink(std::as_bytes(std::span(values))); };
    try {
      esft::write_adapter(adapter, manifest, diverged);
      FAIL() << "a tensor with " << bits;
    } catch (const esft::numerics_error& refused) {
      EXPECT_NE(std::string(refused.what()).find(expert_1_of_layer_1.back()), std::string::npos) << refused.what();
    }
    esft::read_adapter(adapter).verify_digests();  // the old adapter is whole
    EXPECT_EQ(esft::read_adapter(adapter).names(), before);

    const fs::path foreign = scratch / ("foreign" + std::to_string(bits));  // of a program that does not look
    fs::create_directory(foreign);
    esft::write_safetensors(foreign / "adapter.safetensors", diverged);
    fs::copy_file(adapter / "expert_cfg.json", foreign / "expert_cfg.json");
    expect_input_error(input_error_code::out_of_range, [&] { esft::merge_adapter(base, foreign, merged); });
    EXPECT_FALSE(fs::exists(merged));
  }
  esft::merge_adapter(base, adapter, merged);  // the twin
}

TEST_F(adapter_files_test, other_files_are_never_replaced) {
  spill(adapter / "notes.txt", "mine");
  EXPECT_THROW(save(expert_1_of_layer_1, 2), esft::usage_error);
  EXPECT_EQ(slurp(adapter / "notes.txt"), "mine");
  EXPECT_THROW(esft::merge_adapter(base, adapter, base), esft::usage_error);
}

TEST_F(adapter_files_test, merged_is_base_plus_adapter_bit_for_bit) {
  esft::merge_adapter(base, adapter, merged);
  const auto result = esft::model_directory::open(merged);
  const auto original = esft::model_directory::open(base);
  const auto changes = esft::read_adapter(adapter);
  EXPECT_EQ(result.names(), original.names());
  EXPECT_EQ(result.shard_names(), original.shard_names());
  for (const std::string& name : result.names()) {
    const bool trained = changes.find(name) != nullptr;
    EXPECT_EQ(result.tensor_digest(name), trained ? changes.tensor_digest(name) : original.tensor_digest(name)) << name;
  }
  EXPECT_EQ(slurp(merged / "config.json"), "{\"x\":1}");
  EXPECT_TRUE(fs::exists(merged / "tokenizer.json"));
  const esft::receipt receipt = esft::verify_adapter(base, adapter, merged);
  EXPECT_TRUE(receipt.ok()) << esft::write_receipt(receipt);
  EXPECT_EQ(receipt.planned, 3U);
  EXPECT_EQ(receipt.saved, 3U);
  EXPECT_EQ(receipt.changed, 3U);
  EXPECT_EQ(receipt.frozen, 6U);
  EXPECT_EQ(receipt.frozen_identical, 6U);
  EXPECT_EQ(receipt.merged_digest, result.digest());
  expect_input_error(input_error_code::wrong_base, [&] { esft::merge_adapter(merged, adapter, scratch / "twice"); }, "applied once");
  EXPECT_FALSE(fs::exists(scratch / "twice"));
}

TEST_F(adapter_files_test, merging_refuses_what_does_not_fit) {
  std::vector<std::string> more = expert_1_of_layer_1;
  more.push_back(expert_name(1, 9, "up_proj"));
  save(more, 1);
  expect_input_error(input_error_code::unknown_tensor, [&] { esft::merge_adapter(base, adapter, merged); }, "experts.9");
  esft::write_adapter(adapter, manifest, sources(expert_1_of_layer_1, 1, {2, 1}));
  expect_input_error(input_error_code::shape_mismatch, [&] { esft::merge_adapter(base, adapter, merged); }, "[2, 1]");
  auto halves = sources(expert_1_of_layer_1, 1);
  for (auto& source : halves) source.type = esft::dtype::float16;
  esft::write_adapter(adapter, manifest, halves);
  expect_input_error(input_error_code::dtype_mismatch, [&] { esft::merge_adapter(base, adapter, merged); }, "F16");
  save(expert_1_of_layer_1, 1);
  std::string bytes = slurp(adapter / "adapter.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  spill(adapter / "adapter.safetensors", bytes);
  expect_input_error(input_error_code::digest_mismatch, [&] { esft::merge_adapter(base, adapter, merged); });
  EXPECT_FALSE(fs::exists(merged));
}

TEST_F(adapter_files_test, the_receipt_names_every_difference) {
  const auto verify = [&] { return esft::verify_adapter(base, adapter); };
  EXPECT_TRUE(verify().ok());
  EXPECT_FALSE(verify().frozen_identical.has_value());

  save({expert_1_of_layer_1[0], expert_1_of_layer_1[1]}, 1);
  EXPECT_EQ(verify().unsaved, std::vector{expert_1_of_layer_1[2]});
  EXPECT_FALSE(verify().ok());

  auto more = expert_1_of_layer_1;
  more.push_back(expert_name(1, 0, "up_proj"));
  save(more, 1);
  EXPECT_EQ(verify().unplanned, std::vector{expert_name(1, 0, "up_proj")});

  save(expert_1_of_layer_1, 0);
  EXPECT_EQ(verify().unchanged, expert_1_of_layer_1);
  EXPECT_EQ(verify().changed, 0U);
  EXPECT_FALSE(verify().ok());

  esft::write_adapter(adapter, manifest, sources(expert_1_of_layer_1, 1, {2}));
  EXPECT_EQ(verify().foreign, expert_1_of_layer_1);

  auto& named = manifest.experts.experts.layers[esft::layer_index(1)];  // other tools go by expert_cfg.json
  named = {esft::expert_index(0)};
  save(expert_1_of_layer_1, 1);
  EXPECT_EQ(verify().unplanned, expert_1_of_layer_1);
  EXPECT_EQ(verify().unsaved, std::vector<std::string>{"expert 0 of layer 1 of expert_cfg.json"});
  EXPECT_FALSE(verify().ok());
  named = {esft::expert_index(1)};

  manifest.base_digest = std::string(64, '0');
  save(expert_1_of_layer_1, 1);
  EXPECT_EQ(verify().base_matches, false);
  EXPECT_FALSE(verify().ok());
}

TEST_F(adapter_files_test, the_receipt_sees_one_bit_in_the_merged_model) {
  esft::merge_adapter(base, adapter, merged);
  const auto flip_last_bit = [&](const char* shard) {
    std::string bytes = slurp(merged / shard);
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    spill(merged / shard, bytes);
  };
  flip_last_bit("model-00001-of-00002.safetensors");
  esft::receipt receipt = esft::verify_adapter(base, adapter, merged);
  EXPECT_EQ(receipt.moved, std::vector<std::string>{"model.layers.1.mlp.shared_experts.up_proj.weight"});
  EXPECT_EQ(receipt.frozen_identical, 5U);
  EXPECT_FALSE(receipt.ok());
  flip_last_bit("model-00001-of-00002.safetensors");
  flip_last_bit("model-00002-of-00002.safetensors");
  receipt = esft::verify_adapter(base, adapter, merged);
  EXPECT_EQ(receipt.unmerged, std::vector{expert_1_of_layer_1[2]});
  const std::string text = esft::write_receipt(receipt);
  EXPECT_NE(text.find("\"ok\": false"), std::string::npos);
  EXPECT_NE(text.find(expert_1_of_layer_1[2]), std::string::npos);
}

TEST_F(adapter_files_test, official_adapters_are_read_and_verified_by_their_configuration) {
  fs::remove(adapter / "esft.json");
  fs::remove(adapter / "adapter.safetensors");
  std::vector<std::string> legacy = expert_1_of_layer_1;
  for (std::string& name : legacy) name = name.substr(std::string("model.").size());
  write(adapter / "model-00001-of-00002.safetensors", {legacy[0]}, 1);
  write(adapter / "model-00002-of-00002.safetensors", {legacy[1], expert_1_of_layer_1[2]}, 1);
  const auto read = esft::read_adapter(adapter);
  EXPECT_TRUE(read.is_official());
  EXPECT_EQ(read.names(), expert_1_of_layer_1);
  esft::merge_adapter(base, adapter, merged);
  const auto receipt = esft::verify_adapter(base, adapter, merged);
  EXPECT_TRUE(receipt.ok()) << esft::write_receipt(receipt);
  EXPECT_EQ(receipt.planned, 3U);
  EXPECT_FALSE(receipt.base_matches.has_value());
  write(adapter / "model-00003.safetensors", {legacy[0]}, 1);
  expect_input_error(input_error_code::duplicate_key, [&] { esft::read_adapter(adapter); }, "twice");
}

TEST_F(adapter_files_test, planned_tensors_follow_the_flags) {
  const auto names = esft::model_directory::open(base).names();
  esft::expert_config config = manifest.experts;
  EXPECT_EQ(esft::planned_tensors(config, names), expert_1_of_layer_1);
  config.shared_experts = true;
  EXPECT_EQ(esft::planned_tensors(config, names).size(), 4U);
  config.non_expert_modules = true;
  EXPECT_EQ(esft::planned_tensors(config, names).size(), 6U);
}

TEST_F(adapter_files_test, manifests_that_disagree_are_refused) {
  const std::string good = slurp(adapter / "esft.json");
  const auto expect_refused = [&](input_error_code code, const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    spill(adapter / "esft.json", text);
    expect_input_error(code, [&] { esft::read_adapter(adapter); }, "esft.json");
  };
  expect_refused(input_error_code::unsupported_version, "\"format_version\": 1",
                 "\"format_version\": " + std::to_string(esft::adapter_format_version + 1));
  expect_refused(input_error_code::missing_key, "\"base_sha256\"", "\"base\"");
  expect_refused(input_error_code::index_mismatch, "\"" + expert_1_of_layer_1[0] + "\": ", "\"other\": ");
  spill(adapter / "esft.json", good);
  EXPECT_NO_THROW(esft::read_adapter(adapter));
  fs::remove(adapter / "expert_cfg.json");
  expect_input_error(input_error_code::cannot_open, [&] { esft::read_adapter(adapter); }, "expert_cfg.json");
}

}  // namespace adapter_tests
