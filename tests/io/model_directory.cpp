// SPDX-License-Identifier: Apache-2.0
#include <esft/io/fused_sources.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/safetensors.hpp>

#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io_test.hpp"

namespace model_directory_tests {

using esft::input_error_code;
using esft::model_directory;
using esft::test::expect_input_error;
using esft::test::scratch_directory;
using esft::test::slurp;
using esft::test::spill;

const std::vector<float> ones = {1, 1};
const std::vector<float> twos = {2, 2};

void write(const std::filesystem::path& path, const std::vector<std::pair<std::string, const std::vector<float>*>>& tensors) {
  std::vector<esft::tensor_source> sources;
  for (const auto& [name, values] : tensors)
    sources.push_back(esft::memory_source(name, esft::dtype::float32, {2}, std::as_bytes(std::span(*values))));
  esft::write_safetensors(path, sources);
}

void write_index(const std::filesystem::path& directory, const std::string& map) {
  spill(directory / "model.safetensors.index.json", R"({"metadata":{"total_size":16},"weight_map":{)" + map + "}}");
}

const std::string good_map = R"("a":"model-1.safetensors","b":"model-2.safetensors")";

void write_shards(const std::filesystem::path& directory) {
  write(directory / "model-1.safetensors", {{"a", &ones}});
  write(directory / "model-2.safetensors", {{"b", &twos}});
  write_index(directory, good_map);
}

TEST(model_directory, single_file_and_shards_read_the_same) {
  const scratch_directory single;
  const scratch_directory sharded;
  write(single / "model.safetensors", {{"a", &ones}, {"b", &twos}});
  write_shards(sharded.path());
  const auto x = model_directory::open(single.path());
  const auto y = model_directory::open(sharded.path());
  EXPECT_FALSE(x.is_sharded());
  EXPECT_TRUE(y.is_sharded());
  EXPECT_EQ(y.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(x.names(), y.names());
  std::vector<float> values(2);
  y.read_floats("b", values);
  EXPECT_EQ(values, twos);
  EXPECT_EQ(x.digest(), y.digest()) << "the digest does not see how tensors are sharded";
  const auto mapped = model_directory::open(sharded.path(), esft::file_access::mapped);
  EXPECT_EQ(mapped.digest(), x.digest()) << "nor how their files are read";
  values.assign(2, 0);
  mapped.read_floats("b", values);
  EXPECT_EQ(values, twos);
  esft::tensor_record beyond = mapped.at("a");
  beyond.end += 64;
  std::vector<std::byte> more(beyond.byte_size());
  expect_input_error(input_error_code::changed_while_open, [&] { mapped.shards().front().read(beyond, more); });
  EXPECT_EQ(x.tensor_digest("a"), esft::sha256_hex(std::as_bytes(std::span(ones))));
  EXPECT_EQ(x.find("c"), nullptr);
  expect_input_error(input_error_code::unknown_tensor, [&] { x.read_floats("c", values); }, "c");
}

TEST(model_directory, the_digest_sees_name_type_shape_and_bytes) {
  const scratch_directory scratch;
  const auto digest = [&](const std::string& name, esft::dtype type, esft::tensor_shape shape, const std::vector<float>& values) {
    const std::vector<esft::tensor_source> sources = {esft::memory_source(name, type, std::move(shape), std::as_bytes(std::span(values)))};
    esft::write_safetensors(scratch / "model.safetensors", sources);
    return model_directory::open(scratch.path()).digest();
  };
  const std::string reference = digest("a", esft::dtype::float32, {2}, ones);
  EXPECT_EQ(digest("a", esft::dtype::float32, {2}, ones), reference);
  EXPECT_NE(digest("b", esft::dtype::float32, {2}, ones), reference);
  EXPECT_NE(digest("a", esft::dtype::int32, {2}, ones), reference);
  EXPECT_NE(digest("a", esft::dtype::float32, {1, 2}, ones), reference);
  EXPECT_NE(digest("a", esft::dtype::float32, {2}, twos), reference);
}

TEST(model_directory, index_and_shards_must_agree) {
  const scratch_directory scratch;
  write_shards(scratch.path());
  const auto expect_mismatch = [&](const std::string& map, std::string_view mentioned) {
    write_index(scratch.path(), map);
    expect_input_error(input_error_code::index_mismatch, [&] { model_directory::open(scratch.path()); }, mentioned);
  };
  expect_mismatch(good_map + R"(,"c":"model-1.safetensors")", "'c'");
  expect_mismatch(R"("a":"model-1.safetensors","c":"model-2.safetensors")", "'b'");
  expect_mismatch(R"("a":"model-2.safetensors","b":"model-1.safetensors")", "'a'");
  expect_mismatch(R"("a":"model-1.safetensors")", "model-2.safetensors");
  write(scratch / "model-2.safetensors", {{"a", &ones}, {"b", &twos}});
  expect_mismatch(good_map, "two shards");
  write_index(scratch.path(), R"("a":1)");
  expect_input_error(input_error_code::wrong_type, [&] { model_directory::open(scratch.path()); }, "/weight_map/a");
  spill(scratch / "model.safetensors.index.json", "{}");
  expect_input_error(input_error_code::missing_key, [&] { model_directory::open(scratch.path()); }, "weight_map");
  write_index(scratch.path(), R"("a":"pytorch_model.bin")");
  expect_input_error(input_error_code::unsupported_format, [&] { model_directory::open(scratch.path()); });
  write_shards(scratch.path());
  EXPECT_NO_THROW(model_directory::open(scratch.path()));
}

TEST(model_directory, shard_names_cannot_leave_the_directory) {
  const scratch_directory scratch;
  std::filesystem::create_directories(scratch / "model/sub");
  write(scratch / "outside.safetensors", {{"a", &ones}});
  write(scratch / "model/sub/x.safetensors", {{"a", &ones}});
  for (const char* name : {"../outside.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..\\\\x.safetensors",
                           "x\\u0000.safetensors", "./x.safetensors", "link.safetensors"}) {
    SCOPED_TRACE(name);
    std::filesystem::remove(scratch / "model/link.safetensors");
    std::filesystem::create_symlink("../outside.safetensors", scratch / "model/link.safetensors");
    write_index(scratch / "model", std::string(R"("a":")") + name + '"');
    expect_input_error(input_error_code::path_escape, [&] { model_directory::open(scratch / "model"); });
  }
  std::filesystem::remove(scratch / "model/link.safetensors");
  write(scratch / "model/real.safetensors", {{"a", &ones}});
  std::filesystem::create_symlink("real.safetensors", scratch / "model/link.safetensors");
  write_index(scratch / "model", R"("a":"link.safetensors")");
  EXPECT_NO_THROW(model_directory::open(scratch / "model")) << "a link inside the directory is fine";
}

TEST(model_directory, opens_a_hugging_face_cache_but_not_its_neighbours) {
  const scratch_directory scratch;
  const auto model = scratch / "models--org--name";
  std::filesystem::create_directories(model / "snapshots/r1");
  std::filesystem::create_directories(model / "blobs");
  write(model / "blobs/digest", {{"a", &ones}});
  std::filesystem::create_symlink("../../blobs/digest", model / "snapshots/r1/model.safetensors");
  EXPECT_NO_THROW(model_directory::open(model / "snapshots/r1"));
  std::filesystem::create_directories(scratch / "models--org--other");
  write(scratch / "models--org--other/digest", {{"a", &ones}});
  std::filesystem::remove(model / "snapshots/r1/model.safetensors");
  std::filesystem::create_symlink("../../../models--org--other/digest", model / "snapshots/r1/model.safetensors");
  expect_input_error(input_error_code::path_escape, [&] { model_directory::open(model / "snapshots/r1"); });
}

/// A tensor whose elements count from 0 on, for files in which every byte must be found again.
esft::tensor_source counting(const std::string& name, const esft::tensor_shape& shape) {
  std::size_t count = 1;
  for (const esft::index extent : shape) count *= static_cast<std::size_t>(extent);
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i);
  return {name, esft::dtype::float32, shape, [values](const esft::byte_sink& sink) { sink(std::as_bytes(std::span(values))); }};
}
std::vector<float> floats_of(const model_directory& model, const std::string& name) {
  std::vector<float> values(model.at(name).element_count());
  model.read_floats(name, values);
  return values;
}

TEST(model_directory, experts_stored_together_are_tensors_of_their_own) {
  const scratch_directory together;
  const scratch_directory one_by_one;
  const std::string experts = "model.layers.0.mlp.experts.";
  const std::vector<esft::tensor_source> stored = {counting(experts + "gate_up_proj", {2, 4, 3}), counting(experts + "down_proj", {2, 3, 2}),
                                                   counting("model.norm.weight", {3})};
  esft::write_safetensors(together / "model.safetensors", stored);
  const auto model = model_directory::open(together.path());
  EXPECT_EQ(model.names(), (std::vector<std::string>{"model.layers.0.mlp.experts.0.down_proj.weight", experts + "0.gate_proj.weight",
                                                     experts + "0.up_proj.weight", experts + "1.down_proj.weight",
                                                     experts + "1.gate_proj.weight", experts + "1.up_proj.weight", "model.norm.weight"}));
  EXPECT_EQ(model.at(experts + "1.up_proj.weight").shape, (esft::tensor_shape{2, 3}));
  EXPECT_EQ(floats_of(model, experts + "1.up_proj.weight"), (std::vector<float>{18, 19, 20, 21, 22, 23}));
  EXPECT_EQ(floats_of(model, experts + "1.down_proj.weight"), (std::vector<float>{6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(model.find(experts + "gate_up_proj"), nullptr);

  std::vector<esft::tensor_source> parts;
  for (const std::string& name : model.names()) {
    parts.push_back(esft::file_source(model.shard_of(name), model.at(name)));
  }
  esft::write_safetensors(one_by_one / "model.safetensors", parts);
  EXPECT_EQ(model_directory::open(one_by_one.path()).digest(), model.digest()) << "one model in two layouts";
  const scratch_directory again;
  esft::write_safetensors(again / "model.safetensors", esft::fused_sources(parts, esft::fused_layout::halves));
  EXPECT_EQ(slurp(again / "model.safetensors"), slurp(together / "model.safetensors")) << "the way back gives the file";

  write(one_by_one / "model.safetensors", {{experts + "gate_up_proj", &ones}, {experts + "gate_up_proj_bias", &ones}});
  EXPECT_NE(model_directory::open(one_by_one.path()).find(experts + "gate_up_proj"), nullptr) << "of another rank it is no stack";
  parts.push_back(counting(experts + "down_proj", {2, 3, 2}));
  esft::write_safetensors(one_by_one / "model.safetensors", parts);
  expect_input_error(input_error_code::index_mismatch, [&] { model_directory::open(one_by_one.path()); }, "twice");
}

TEST(model_directory, interleaved_experts_keep_the_bytes_of_their_slices) {
  const scratch_directory scratch;
  const std::string experts = "model.layers.3.mlp.experts.";
  const std::vector<esft::tensor_source> stored = {
      counting(experts + "gate_up_proj", {2, 3, 4}), counting(experts + "gate_up_proj_bias", {2, 4}),
      counting(experts + "down_proj", {2, 2, 3}), counting(experts + "down_proj_bias", {2, 3})};
  esft::write_safetensors(scratch / "model.safetensors", stored);
  const auto model = model_directory::open(scratch.path());
  EXPECT_EQ(model.names().size(), 8U);
  EXPECT_EQ(model.at(experts + "1.gate_up_proj").shape, (esft::tensor_shape{3, 4}));
  EXPECT_EQ(floats_of(model, experts + "1.gate_up_proj").front(), 12);
  EXPECT_EQ(floats_of(model, experts + "1.gate_up_proj_bias"), (std::vector<float>{4, 5, 6, 7}));
  EXPECT_EQ(floats_of(model, experts + "0.down_proj_bias"), (std::vector<float>{0, 1, 2}));
  EXPECT_EQ(model.slices_of(*model.shards().front().find(experts + "down_proj")).size(), 2U);
  std::vector<esft::tensor_source> parts;
  for (const std::string& name : model.names()) parts.push_back(esft::file_source(model.shard_of(name), model.at(name)));
  const scratch_directory again;
  esft::write_safetensors(again / "model.safetensors", esft::fused_sources(parts, esft::fused_layout::interleaved));
  EXPECT_EQ(slurp(again / "model.safetensors"), slurp(scratch / "model.safetensors"));
}

TEST(model_directory, says_what_is_missing) {
  const scratch_directory scratch;
  expect_input_error(input_error_code::nothing_to_load, [&] { model_directory::open(scratch.path()); });
  expect_input_error(input_error_code::cannot_open, [&] { model_directory::open(scratch / "absent"); });
  spill(scratch / "pytorch_model.bin", "x");
  expect_input_error(input_error_code::unsupported_format, [&] { model_directory::open(scratch.path()); }, "pytorch_model.bin");
  write_index(scratch.path(), R"("a":"model-1.safetensors")");
  expect_input_error(input_error_code::cannot_open, [&] { model_directory::open(scratch.path()); }, "model-1");
}

}  // namespace model_directory_tests
