// SPDX-License-Identifier: Apache-2.0
// Lesson 6. The whole pipeline without a file: data, score, select, plan, train, and the proof of what changed.
#include <esft/backends/eigen.hpp>
#include <esft/esft.hpp>

#include <cstdio>

int main() {
  using backend_type = esft::eigen_backend<float>;  // or esft::reference_backend<double>: nothing below changes
  backend_type backend(1);

  // Data: documents -> token ids with a mark on what is to be learned -> packed rows of 32 tokens.
  const esft::byte_tokenizer words;
  std::vector<esft::training_sample> documents;
  for (int a = 0; a < 10; ++a) {
    for (int b = 0; b < 10; ++b) {
      const std::string sum = std::to_string(a) + "+" + std::to_string(b) + "=";
      documents.push_back(esft::render_pair(words, sum, std::to_string(a + b)));
    }
  }
  const esft::packing_options rows{.length = 32};
  const esft::evaluation_batches<> every_row_once(documents, rows, 4, words.pad);
  const esft::batch_schedule<> training(esft::packed_dataset<>(documents, rows, 1), 4, words.pad);

  // Model: two MoE layers of 8 experts, 2 active, from random weights. A real one comes from a checkpoint.
  esft::decoder_config shape;
  shape.vocabulary = static_cast<esft::index>(words.vocab_size);
  shape.width = 32;
  shape.layers = 2;
  shape.max_positions = 32;
  shape.experts = 8;
  shape.active = 2;
  shape.expert_width = 16;
  shape.moe_layer = {true, true};
  shape.attention.heads = 2;
  shape.attention.key_value_heads = 2;
  shape.attention.head_width = 16;
  esft::decoder<backend_type> model(backend, shape);
  esft::initialise(backend, model.parameters, shape, 1);

  // Score, select, plan.
  const esft::score_table scores = esft::score_experts<esft::token_selection_ratio>(backend, model, every_row_once);
  const esft::expert_set selected = esft::top_p(esft::top_p_options{.p = 0.4}).select(scores);
  const esft::trainable_set planned = esft::apply_plan(backend, model, esft::esft_plan{selected});
  for (const auto& [layer, experts] : selected.layers) {
    std::printf("layer %d trains", layer.value);
    for (const esft::expert_index e : experts) std::printf(" %d", e.value);
    std::printf("\n");
  }

  // Train. Memory for gradients and optimizer state exists for the planned experts only.
  const esft::parameter_snapshot base(backend, model);
  const double before = esft::evaluate_loss(backend, model, every_row_once).loss;
  esft::trainer<esft::decoder<backend_type>> run(backend, model, {.learning_rate = 1e-2});
  esft::run_steps(run, training, 100, 1, [](const esft::step_report& report) { return !report.skipped; });
  const double after = esft::evaluate_loss(backend, model, every_row_once).loss;
  std::printf("loss on the answers %.3f -> %.3f\n", before, after);

  // Prove: planned = changed, bit for bit. Every expert has two tensors, gate_up and down.
  const auto changed = base.compare(backend, model);
  const auto parameters = esft::trained_elements(planned, esft::inventory(model.parameters));
  std::printf("planned %zu, changed %zu, frozen but changed %zu; %lld parameters, %lld bytes of training state\n", 2 * selected.size(),
              changed.trained_changed, changed.frozen_changed, static_cast<long long>(parameters),
              static_cast<long long>(run.training_state_bytes()));
  const bool proven = changed.trained_changed == 2 * selected.size() && changed.trained_unchanged == 0 && changed.frozen_changed == 0;
  return proven && run.training_state_bytes() == 16 * parameters && after < 0.7 * before ? 0 : 1;
}
