// SPDX-License-Identifier: Apache-2.0
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
