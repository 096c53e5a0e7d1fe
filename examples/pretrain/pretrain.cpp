// SPDX-License-Identifier: Apache-2.0
/// @file
/// Pre-trains the bundled byte-level DeepSeekMoE model from scratch on the corpora that make_corpora.py writes.
/// Rate: warm-up, constant, then linear decay over the last --decay steps. Creating the file OUT/finish starts the decay early.

#include <esft/backends/eigen.hpp>
#include <esft/data.hpp>
#include <esft/io.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/save.hpp>
#include <esft/train/dataset.hpp>
#include <esft/train/evaluation.hpp>
#include <esft/train/trainer.hpp>

#include <CLI/CLI.hpp>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

using backend_type = esft::eigen_backend<float>;
const std::vector<std::string> domains{"scripture_en", "scripture_es", "python", "licences", "packages", "arithmetic"};

std::vector<esft::training_sample> read_corpus(const std::filesystem::path& file) {
  return esft::render_dataset(esft::byte_tokenizer{}, esft::read_dataset(file));
}

esft::hf_config bundled_config() {
  esft::hf_config hf;
  hf.model_type = "deepseek";
  hf.vocab_size = esft::byte_tokenizer::vocab_size;
  hf.hidden_size = 128;
  hf.intermediate_size = 256;
  hf.num_hidden_layers = 5;
  hf.num_attention_heads = 4;
  hf.num_key_value_heads = 2;
  hf.head_dim = 32;
  hf.max_position_embeddings = 1024;
  hf.tie_word_embeddings = false;
  hf.num_experts = 32;
  hf.num_experts_per_tok = 4;
  hf.num_shared_experts = 1;
  hf.moe_intermediate_size = 64;
  hf.first_k_dense_replace = 1;
  hf.norm_topk_prob = false;
  hf.aux_loss_alpha = 3e-3;
  hf.torch_dtype = "bfloat16";
  hf.bos_token_id = esft::byte_tokenizer::bos;
  hf.eos_token_id = esft::byte_tokenizer::eos;
  hf.pad_token_id = esft::byte_tokenizer::pad;
  return hf;
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path corpora;
  std::filesystem::path out;
  std::int64_t steps = 6000;
  std::int64_t decay = 1500;
  std::size_t rows = 12;
  double rate = 3e-3;
  int threads = 0;
  CLI::App app("Pre-train the bundled model");
  app.add_option("--corpora", corpora, "folder that make_corpora.py wrote")->required();
  app.add_option("--out", out, "model directory to write")->required();
  app.add_option("--steps", steps);
  app.add_option("--decay", decay, "steps of the final linear decay");
  app.add_option("--rows", rows, "rows of 256 tokens a step");
  app.add_option("--rate", rate, "peak learning rate");
  app.add_option("--threads", threads);
  CLI11_PARSE(app, argc, argv);
  std::filesystem::create_directories(out);

  const esft::byte_tokenizer words;
  const esft::packing_options packing{256, esft::packing_mode::split};
  const std::uint64_t seed = 20240702;
  std::vector<esft::packed_dataset<>> sets;
  std::vector<esft::evaluation_batches<>> validation;
  for (std::size_t d = 0; d < domains.size(); ++d) {
    sets.emplace_back(read_corpus(corpora / ("train." + domains[d] + ".jsonl")), packing, seed, d);
    auto held_out = read_corpus(corpora / ("validation." + domains[d] + ".jsonl"));
    if (held_out.size() > 40) held_out.resize(40);
    validation.emplace_back(std::move(held_out), packing, rows, words.pad);
  }
  const esft::batch_schedule<> schedule(std::move(sets), esft::mixing_schedule(std::vector<std::uint32_t>(domains.size(), 1), seed), rows, words.pad);

  backend_type backend(threads);
  const esft::hf_config hf = bundled_config();
  esft::decoder<backend_type> model(backend, esft::config_from_hf(hf, esft::dtype::bfloat16));
  esft::initialise(backend, model.parameters, model.config, seed);
  esft::trainable_set everything;
  for (const auto& entry : esft::inventory(model.parameters)) everything.whole.insert(entry.key);
  esft::apply(backend, model.parameters, everything);

  std::int64_t decay_from = steps - decay;
  const std::int64_t warmup = 100;
  esft::trainer_options options;
  options.learning_rate = rate;
  options.adamw.weight_decay = 0.1;
  options.balance.expert = hf.aux_loss_alpha;
  options.schedule = [&](std::int64_t step) {
    if (step < warmup) return static_cast<double>(step) / static_cast<double>(warmup);
    return step <= decay_from ? 1.0 : std::max(0.0, 1.0 - static_cast<double>(step - decay_from) / static_cast<double>(decay));
  };
  esft::trainer<esft::decoder<backend_type>> trainer(backend, model, options);

  const auto save = [&] {
    esft::write_safetensors(out / "model.safetensors", esft::tensor_sources(backend, model, esft::save_scope::everything), {{"format", "pt"}});
    std::ofstream(out / "config.json") << esft::write_hf_config(hf);
  };
  double seconds = 0;
  for (std::int64_t step = 1; step <= decay_from + decay; ++step) {
    const esft::token_batch batch = schedule.batch(static_cast<std::uint64_t>(step - 1));
    const esft::step_report report = trainer.step(std::span<const esft::token_batch>(&batch, 1));
    seconds += report.seconds;
    if (step % 50 == 0 || step == 1) {
      std::printf("step %ld loss %.4f balance %.4f norm %.3f rate %.2e  %.0f tok/s\n", static_cast<long>(step), report.loss, report.balance_loss,
                  report.gradient_norm, report.learning_rate, static_cast<double>(step) * static_cast<double>(report.tokens) / seconds);
      std::fflush(stdout);
    }
    if (step % 500 == 0 || step == decay_from + decay) {
      for (std::size_t d = 0; d < domains.size(); ++d) {
        std::printf("  valid %s %.4f\n", domains[d].c_str(), esft::evaluate_loss(backend, model, validation[d]).loss);
      }
      std::fflush(stdout);
      save();
    }
    if (step < decay_from && std::filesystem::exists(out / "finish")) {
      decay_from = step;
      std::printf("decay starts: the run will have %ld steps\n", static_cast<long>(decay_from + decay));
    }
  }
  return 0;
}
