// SPDX-License-Identifier: Apache-2.0
#include <esft/backends/eigen.hpp>
#include <esft/esft.hpp>
#include <esft/io/merge_adapter.hpp>
#include <esft/io/receipt.hpp>
#include <esft/model/load.hpp>
#include <esft/train/dataset.hpp>
#include <esft/train/save_adapter.hpp>

int main(int argc, char** argv) {               // readme_example MODEL_DIRECTORY TASK.jsonl ADAPTER_DIRECTORY MERGED_DIRECTORY
  if (argc != 5) return 2;
  esft::eigen_backend<float> backend;           // swap the type here; nothing below changes
  const auto base = esft::model_directory::open(argv[1]);
  auto model = esft::load_decoder(backend, base);
  const esft::byte_tokenizer words;
  const auto task = esft::render_dataset(words, esft::read_dataset(argv[2]));
  const esft::packing_options rows{.length = 256};

  const esft::evaluation_batches<> every_row_once(task, rows, 8, words.pad);
  const auto scores = esft::score_experts<esft::token_selection_ratio>(backend, model, every_row_once);
  const auto experts = esft::top_p(esft::top_p_options{.p = 0.2}).select(scores);
  const auto planned = esft::apply_plan(backend, model, esft::esft_plan{experts});  // all else is frozen

  esft::trainer run(backend, model, {.learning_rate = 1e-3});
  const esft::batch_schedule<> batches(esft::packed_dataset<>(task, rows, 1), 8, words.pad);
  esft::run_steps(run, batches, 20, 1, [](const esft::step_report& step) { return !step.skipped; });
  esft::save_adapter(argv[3], backend, model, base, planned, "esft");  // what changed, and nothing else
  esft::merge_adapter(argv[1], argv[3], argv[4]);                      // a checkpoint for every other tool
  return esft::verify_adapter(argv[1], argv[3], argv[4]).ok() ? 0 : 1;  // planned = changed = saved = merged, on the files alone
}
