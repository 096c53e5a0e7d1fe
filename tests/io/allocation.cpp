// SPDX-License-Identifier: Apache-2.0
// Counts the memory that this program holds, to show that a hostile file cannot make a reader allocate more than the file justifies.
#include <esft/backend/reference_backend.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/io/merge_adapter.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/safetensors.hpp>
#include <esft/model/load.hpp>
#include <esft/model/save.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include <malloc.h>

#include <gtest/gtest.h>

#include "io_test.hpp"

namespace {

std::atomic<std::int64_t> live = 0;
std::atomic<std::int64_t> high_water = 0;

void* counted(std::size_t size) {
  void* const block = std::malloc(size == 0 ? 1 : size);
  if (block == nullptr) throw std::bad_alloc();
  const std::int64_t now = live += static_cast<std::int64_t>(::malloc_usable_size(block));
  std::int64_t seen = high_water;
  while (now > seen && !high_water.compare_exchange_weak(seen, now)) {
  }
  return block;
}

void uncounted(void* block) noexcept {
  if (block != nullptr) live -= static_cast<std::int64_t>(::malloc_usable_size(block));
  std::free(block);
}

}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void operator delete(void* block) noexcept { uncounted(block); }
void operator delete[](void* block) noexcept { uncounted(block); }
void operator delete(void* block, std::size_t) noexcept { uncounted(block); }
void operator delete[](void* block, std::size_t) noexcept { uncounted(block); }

namespace {

using esft::safetensors_file;
using esft::test::raw_safetensors;
using esft::test::scratch_directory;
using esft::test::spill;

/// Most bytes that `call` held at one time, over what was held before. What it throws is swallowed.
template <class Call>
std::int64_t peak_of(Call&& call) {
  const std::int64_t before = live;
  high_water = before;
  try {
    call();
  } catch (const esft::error&) {
  }
  return high_water - before;
}

// Messages, paths and one small header; a read buffer is only needed once a file is valid.
constexpr std::int64_t constant_part = 32 * 1024;

TEST(allocation, the_counter_counts) {
  const std::int64_t peak = peak_of([] { const std::vector<char> block(100'000); });
  EXPECT_GE(peak, 100'000);
  EXPECT_LT(peak, 110'000);
}

TEST(allocation, lengths_in_a_small_hostile_file_allocate_nothing) {
  const scratch_directory scratch;
  const auto path = scratch / "x.safetensors";
  const auto expect_small = [&](const std::string& bytes) {
    spill(path, bytes);
    EXPECT_LT(peak_of([&] { static_cast<void>(safetensors_file::open(path)); }),
              constant_part + 8 * static_cast<std::int64_t>(bytes.size()));
  };
  for (const std::uint64_t length : {std::uint64_t{99'999'999}, std::uint64_t{1} << 40U, std::uint64_t{1} << 63U, ~std::uint64_t{0} - 8}) {
    expect_small(raw_safetensors("{}", "", length));
  }
  expect_small(raw_safetensors(R"({"a":{"dtype":"U8","shape":[281474976710655,65535],"data_offsets":[0,9223372036854775807]}})"));
  expect_small(raw_safetensors(R"({"a":{"dtype":"F64","shape":[281474976710655],"data_offsets":[0,2251799813685240]}})"));
  expect_small(raw_safetensors(std::string(100'000, '[')));
  expect_small(raw_safetensors("{\"a\":" + std::string(100'000, '[') + "}"));
}

TEST(allocation, reading_a_header_takes_memory_linear_in_its_size) {
  const scratch_directory scratch;
  const auto path = scratch / "x.safetensors";
  const auto peak_for = [&](int tensors) {
    std::string header = "{";
    for (int i = 0; i < tensors; ++i) {
      header += (i > 0 ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
    }
    header += "}";
    spill(path, raw_safetensors(header));
    const std::int64_t peak = peak_of([&] { static_cast<void>(safetensors_file::open(path)); });
    EXPECT_LT(peak, constant_part + 8 * static_cast<std::int64_t>(header.size()));
    return peak;
  };
  const std::int64_t small = peak_for(2'000);
  EXPECT_LT(peak_for(20'000), 20 * small);
  spill(path, raw_safetensors("{}" + std::string(5'000'000, ' ')));
  EXPECT_LT(peak_of([&] { static_cast<void>(safetensors_file::open(path)); }), 6'000'000);
}

TEST(allocation, a_config_that_is_too_long_is_not_read) {
  const scratch_directory scratch;
  spill(scratch / "config.json", std::string(2U << 20U, ' '));
  EXPECT_LT(peak_of([&] { static_cast<void>(esft::read_hf_config(scratch.path())); }), constant_part);
}

TEST(allocation, merging_streams) {
  const scratch_directory scratch;
  std::filesystem::create_directory(scratch / "base");
  const std::int64_t tensor_bytes = 4 << 20;
  {
    const std::vector<float> large(static_cast<std::size_t>(tensor_bytes) / sizeof(float), 1.0F);
    const auto source = [&](const char* name) {
      return esft::memory_source(name, esft::dtype::float32, {static_cast<esft::index>(large.size())}, std::as_bytes(std::span(large)));
    };
    const std::vector<esft::tensor_source> base = {source("a"), source("b"), source("c")};
    esft::write_safetensors(scratch / "base/model.safetensors", base);
    esft::adapter_manifest manifest;
    manifest.base_digest = esft::model_directory::open(scratch / "base").digest();
    manifest.planned = {"b"};
    const std::vector<esft::tensor_source> changes = {source("b")};
    esft::write_adapter(scratch / "adapter", manifest, changes);
  }
  const std::int64_t peak = peak_of([&] { esft::merge_adapter(scratch / "base", scratch / "adapter", scratch / "merged"); });
  EXPECT_TRUE(std::filesystem::exists(scratch / "merged/model.safetensors"));
  EXPECT_LT(peak, tensor_bytes / 4);
}

/// A source of zeros that holds a page of them.
esft::tensor_source zeros(const std::string& name, esft::dtype type, const esft::tensor_shape& shape) {
  std::uint64_t bytes = size_of(type);
  for (const esft::index extent : shape) bytes *= static_cast<std::uint64_t>(extent);
  return {name, type, shape, [bytes](const esft::byte_sink& sink) {
            const std::vector<std::byte> page(4096);
            for (std::uint64_t done = 0; done < bytes; done += page.size()) {
              sink(std::span(page).first(static_cast<std::size_t>(std::min<std::uint64_t>(page.size(), bytes - done))));
            }
          }};
}

TEST(allocation, loading_a_model_streams_into_it) {
  const std::string config = R"({"model_type":"deepseek","vocab_size":60000,"hidden_size":64,"intermediate_size":64,"num_hidden_layers":1,
    "num_attention_heads":1,"num_key_value_heads":1,"max_position_embeddings":64,"num_experts_per_tok":1,"n_routed_experts":4,
    "n_shared_experts":null,"moe_intermediate_size":64,"rms_norm_eps":1e-6,"first_k_dense_replace":0,"tie_word_embeddings":true})";
  const std::int64_t largest = 60'000 * 64 * static_cast<std::int64_t>(sizeof(float));
  for (const esft::dtype type : {esft::dtype::float32, esft::dtype::bfloat16, esft::dtype::float16}) {
    const scratch_directory scratch;
    spill(scratch / "config.json", config);
    esft::reference_backend<float> backend;
    {
      const esft::decoder<esft::reference_backend<float>> shape(backend, esft::config_from_hf(esft::read_hf_config(scratch.path()), type));
      std::vector<esft::tensor_source> sources;
      for (const auto& source : esft::tensor_sources(backend, shape, esft::save_scope::everything)) {
        sources.push_back(zeros(source.name, source.type, source.shape));
      }
      esft::write_safetensors(scratch / "model.safetensors", sources);
    }
    const std::int64_t before = live;
    high_water = before;
    const auto model = esft::load_decoder(backend, esft::model_directory::open(scratch.path()));
    EXPECT_EQ(model.config.storage, type);
    // tensors of the model come from aligned allocations, which are not counted here: what is counted lies beside it
    EXPECT_LT(high_water - before, largest / 2) << "less than the largest tensor";
    EXPECT_GT(high_water - before, 60'000) << "blocks are counted";
  }
}

TEST(allocation, a_config_that_is_larger_than_its_files_asks_for_no_memory) {
  const std::string config = R"({"model_type":"deepseek","vocab_size":16777216,"hidden_size":1048576,"intermediate_size":1048576,
    "num_hidden_layers":64,"num_attention_heads":1,"num_key_value_heads":1,"max_position_embeddings":64,"num_experts_per_tok":1,
    "n_routed_experts":4096,"n_shared_experts":null,"moe_intermediate_size":1048576,"rms_norm_eps":1e-6,"first_k_dense_replace":0})";
  const scratch_directory scratch;
  spill(scratch / "config.json", config);
  const std::vector<float> values(4);
  esft::reference_backend<float> backend;
  const auto load = [&](const std::string& name) {
    const std::vector<esft::tensor_source> sources{
        esft::memory_source(name, esft::dtype::float32, {2, 2}, std::as_bytes(std::span(values)))};
    esft::write_safetensors(scratch / "model.safetensors", sources);
    std::string problem;
    const std::int64_t peak = peak_of([&] {
      try {
        static_cast<void>(esft::load_decoder(backend, esft::model_directory::open(scratch.path())));
      } catch (const esft::error& refused) {
        problem = refused.what();
      }
    });
    EXPECT_LT(peak, 1 << 20);
    return problem;
  };
  // the embedding alone would take 64 TiB: out of memory, which is no error of ours
  const std::string other_shape = load("model.embed_tokens.weight");
  EXPECT_NE(other_shape.find("model.embed_tokens.weight has shape [2, 2], config.json asks for [16777216, 1048576]"), std::string::npos)
      << other_shape;
  const std::string missing = load("lm_head.weight");
  EXPECT_NE(missing.find("model.embed_tokens.weight is missing"), std::string::npos) << missing;
}

}  // namespace
