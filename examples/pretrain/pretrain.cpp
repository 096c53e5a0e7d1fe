// SPDX-License-Identifier: Apache-2.0
/// @file
/// Pre-trains a byte-level DeepSeekMoE model from scratch on the corpora that make_corpora.py writes: the bundled one, or one of other
/// sizes. Rate: warm-up, constant, then linear decay over the last --decay steps. Creating the file OUT/finish starts the decay early. A
/// run that was cut off goes on from OUT/state, to the same bits, when it is started again with the same options.

#include <esft/backends/eigen.hpp>
#include <esft/data.hpp>
#include <esft/io.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/save.hpp>
#include <esft/train/checkpoint.hpp>
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

const std::vector<std::string> domains{"scripture_en", "scripture_es", "python", "licences", "packages", "arithmetic"};

std::vector<esft::training_sample> read_corpus(const std::filesystem::path& file) {
  return esft::render_dataset(esft::byte_tokenizer{}, esft::read_dataset(file));
}

/// What is trained and how. The numbers are those of the bundled model.
struct recipe {
  std::filesystem::path corpora, out;
  std::int64_t steps = 6000;
  std::int64_t decay = 1500;
  std::size_t rows = 12;
  double rate = 3e-3;
  int threads = 0;
  std::string compute = "float32";
  std::int64_t save_every = 250;
  std::int64_t width = 128;
  std::int64_t layers = 5;
  std::int64_t heads = 4;
  int experts = 32;
  int active = 4;
  int shared = 1;
  std::int64_t expert_width = 64;
  std::int64_t dense_width = 256;
};

esft::hf_config config_of(const recipe& how) {
  esft::hf_config hf;
  hf.model_type = "deepseek";
  hf.vocab_size = esft::byte_tokenizer::vocab_size;
  hf.hidden_size = how.width;
  hf.intermediate_size = how.dense_width;
  hf.num_hidden_layers = how.layers;
  hf.num_attention_heads = how.heads;
  hf.num_key_value_heads = how.heads / 2;
  hf.head_dim = how.width / how.heads;
  hf.max_position_embeddings = 1024;
  hf.tie_word_embeddings = false;
  hf.num_experts = how.experts;
  hf.num_experts_per_tok = how.active;
  hf.num_shared_experts = how.shared;
  hf.moe_intermediate_size = how.expert_width;
  hf.first_k_dense_replace = 1;
  hf.norm_topk_prob = false;
  hf.aux_loss_alpha = 3e-3;
  hf.torch_dtype = "bfloat16";
  hf.bos_token_id = esft::byte_tokenizer::bos;
  hf.eos_token_id = esft::byte_tokenizer::eos;
  hf.pad_token_id = esft::byte_tokenizer::pad;
  return hf;
}

template <class T>
void pretrain(const recipe& how) {
  using backend_type = esft::eigen_backend<T>;
  const std::filesystem::path& out = how.out;
  std::filesystem::create_directories(out / "state");

  const esft::byte_tokenizer words;
  const esft::packing_options packing{256, esft::packing_mode::split};
  const std::uint64_t seed = 20240702;
  std::vector<esft::packed_dataset<>> sets;
  std::vector<esft::evaluation_batches<>> validation;
  for (std::size_t d = 0; d < domains.size(); ++d) {
    sets.emplace_back(read_corpus(how.corpora / ("train." + domains[d] + ".jsonl")), packing, seed, d);
    auto held_out = read_corpus(how.corpora / ("validation." + domains[d] + ".jsonl"));
    if (held_out.size() > 40) held_out.resize(40);
    validation.emplace_back(std::move(held_out), packing, how.rows, words.pad);
  }
  const esft::batch_schedule<> schedule(std::move(sets), esft::mixing_schedule(std::vector<std::uint32_t>(domains.size(), 1), seed),
                                        how.rows, words.pad);

  backend_type backend(how.threads);
  const esft::hf_config hf = config_of(how);
  esft::decoder<backend_type> model(backend, esft::config_from_hf(hf, esft::dtype::bfloat16));
  esft::initialise(backend, model.parameters, model.config, seed);
  esft::trainable_set everything;
  for (const auto& entry : esft::inventory(model.parameters)) everything.whole.insert(entry.key);
  esft::apply(backend, model.parameters, everything);

  std::int64_t decay_from = how.steps - how.decay;
  if (std::int64_t begun = 0; std::ifstream(out / "finish") >> begun) decay_from = begun;
  const std::int64_t warmup = 100;
  esft::trainer_options options;
  options.learning_rate = how.rate;
  options.adamw.weight_decay = 0.1;
  options.balance.expert = hf.aux_loss_alpha;
  options.schedule = [&](std::int64_t step) {
    if (step < warmup) return static_cast<double>(step) / static_cast<double>(warmup);
    return step <= decay_from ? 1.0 : std::max(0.0, 1.0 - static_cast<double>(step - decay_from) / static_cast<double>(how.decay));
  };
  esft::trainer<esft::decoder<backend_type>> trainer(backend, model, options);
  // The steps are no part of it: the decay may be put off or begun early.
  const esft::run_fingerprint same{{"config", esft::write_hf_config(hf)},
                                   {"rows", std::to_string(how.rows)},
                                   {"compute", how.compute},
                                   {"rate", std::to_string(how.rate)}};
  const auto resumed = esft::resume_from_checkpoint(out / "state", backend, trainer, same);
  if (resumed) std::printf("goes on after step %ld\n", static_cast<long>(resumed->step));

  const auto save = [&] {
    esft::write_safetensors(out / "model.safetensors", esft::tensor_sources(backend, model, esft::save_scope::everything),
                            {{"format", "pt"}});
    std::ofstream(out / "config.json") << esft::write_hf_config(hf);
  };
  double seconds = 0;
  double tokens = 0;
  for (std::int64_t step = resumed ? resumed->step + 1 : 1; step <= decay_from + how.decay; ++step) {
    const esft::token_batch batch = schedule.batch(static_cast<std::uint64_t>(step - 1));
    const esft::step_report report = trainer.step(std::span<const esft::token_batch>(&batch, 1));
    seconds += report.seconds;
    tokens += static_cast<double>(report.tokens);
    if (step % 50 == 0 || step == 1) {
      std::printf("step %ld loss %.4f balance %.4f norm %.3f rate %.2e  %.0f tok/s\n", static_cast<long>(step), report.loss,
                  report.balance_loss, report.gradient_norm, report.learning_rate, tokens / seconds);
      std::fflush(stdout);
    }
    const bool last = step == decay_from + how.decay;
    if (step % how.save_every == 0 || last) esft::save_checkpoint(out / "state", backend, trainer, same);
    if (step % 500 == 0 || last) {
      for (std::size_t d = 0; d < domains.size(); ++d) {
        std::printf("  valid %s %.4f\n", domains[d].c_str(), esft::evaluate_loss(backend, model, validation[d]).loss);
      }
      std::fflush(stdout);
      save();
    }
    if (step < decay_from && std::filesystem::exists(out / "finish")) {
      decay_from = step;
      std::ofstream(out / "finish") << decay_from << "\n";  // a run that is cut off now goes on with it
      std::printf("decay starts: the run will have %ld steps\n", static_cast<long>(decay_from + how.decay));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  recipe how;
  CLI::App app("Pre-train the bundled model, or one of another size");
  app.add_option("--corpora", how.corpora, "folder that make_corpora.py wrote")->required();
  app.add_option("--out", how.out, "model directory to write")->required();
  app.add_option("--steps", how.steps)->capture_default_str();
  app.add_option("--decay", how.decay, "steps of the final linear decay")->capture_default_str();
  app.add_option("--rows", how.rows, "rows of 256 tokens a step")->capture_default_str();
  app.add_option("--rate", how.rate, "peak learning rate")->capture_default_str();
  app.add_option("--threads", how.threads);
  app.add_option("--compute", how.compute, "weights and activations while training; what is written is bfloat16")
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  app.add_option("--save-every", how.save_every, "steps between states to go on from")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--width", how.width)->capture_default_str();
  app.add_option("--layers", how.layers, "the first one is dense")->check(CLI::Range(2, 1000))->capture_default_str();
  app.add_option("--heads", how.heads, "of attention; half as many for keys and values")->capture_default_str();
  app.add_option("--experts", how.experts, "routed experts a layer")->capture_default_str();
  app.add_option("--active", how.active, "experts a token")->capture_default_str();
  app.add_option("--shared", how.shared, "shared experts")->capture_default_str();
  app.add_option("--expert-width", how.expert_width, "of a routed expert, and of a shared one")->capture_default_str();
  app.add_option("--dense-width", how.dense_width, "of the first layer")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    how.compute == "float32" ? pretrain<float>(how) : pretrain<esft::bf16>(how);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "pretrain: %s\n", problem.what());
    return 1;
  }
  return 0;
}
