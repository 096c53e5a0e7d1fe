// SPDX-License-Identifier: Apache-2.0
// The one file of these tests that knows the model; and the look for a GPU before tests run on one.
#include "end_to_end/workspace.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/data/tokenizers/byte_tokenizer.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/save.hpp>

namespace end_to_end {
namespace {

/// Without a GPU nothing is run on one, and nothing of it passes.
class device_check : public testing::Environment {
  void SetUp() override {
    if (chosen_backend() != "cuda") return;
    const auto folder = std::filesystem::path(testing::TempDir()) / ("esft_device_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder);
    const ended doctor = process(folder, {"doctor"}).wait();
    std::filesystem::remove_all(folder);
    ASSERT_EQ(doctor.code, 0) << doctor.err;
    if (doctor.out.find("no device") != std::string::npos) GTEST_SKIP() << "SKIP: cuda: no device";
  }
};
[[maybe_unused]] const testing::Environment* const checked_first = testing::AddGlobalTestEnvironment(new device_check);

}  // namespace

void workspace::write_model(const std::string& name, std::uint64_t seed) const {
  esft::hf_config hf;
  hf.model_type = "deepseek";
  hf.vocab_size = static_cast<esft::index>(esft::byte_tokenizer::vocab_size);
  hf.hidden_size = 16;
  hf.intermediate_size = 24;
  hf.num_hidden_layers = 3;
  hf.num_attention_heads = 2;
  hf.num_key_value_heads = 1;
  hf.head_dim = 8;
  hf.max_position_embeddings = 64;
  hf.num_experts = 6;
  hf.num_experts_per_tok = 2;
  hf.num_shared_experts = 1;
  hf.moe_intermediate_size = 8;
  hf.first_k_dense_replace = 1;
  hf.bos_token_id = esft::byte_tokenizer::bos;
  hf.eos_token_id = esft::byte_tokenizer::eos;
  hf.pad_token_id = esft::byte_tokenizer::pad;
  write_random_weights(at(name), hf, seed);
  std::ofstream(at(name) / "config.json") << esft::write_hf_config(hf);
}

void workspace::write_model_of(const std::string& name, const std::string& config, std::uint64_t seed, bool together,
                               esft::dtype type) const {
  write_random_weights(at(name), esft::parse_hf_config(config, "config.json"), seed, together, type);
  std::ofstream(at(name) / "config.json") << config;
}

void workspace::write_random_weights(const std::filesystem::path& directory, const esft::hf_config& hf, std::uint64_t seed,
                                     bool together, esft::dtype type) {
  esft::reference_backend<float> backend;
  esft::decoder_config config = esft::config_from_hf(hf, type);
  if (together) {
    config.names.together = esft::fused_layout::halves;
    config.names.experts = esft::expert_name_styles.front();
  }
  esft::decoder<esft::reference_backend<float>> model(backend, config);
  esft::initialise(backend, model.parameters, model.config, seed);
  // an untrained head hardly depends on the experts: make what they say matter
  for (auto& block : model.parameters.blocks) {
    if (!block.moe.exists()) continue;
    auto down = block.moe.down.value.view().flat();
    for (esft::index i = 0; i < down.size(); ++i) down[i] = static_cast<float>(esft::bf16(4 * down[i]));
  }
  esft::for_each_buffer(model.parameters, [](esft::parameter_key, auto& buffer) {
    for (esft::index i = 0; i < buffer.value.size(); ++i) buffer.value.data()[i] = 0.1F * static_cast<float>(i % 3);
  });
  std::filesystem::create_directories(directory);
  const auto sources = esft::tensor_sources(backend, model, esft::save_scope::everything);
  esft::write_safetensors(directory / "model.safetensors", sources, {{"format", "pt"}});
}

}  // namespace end_to_end
