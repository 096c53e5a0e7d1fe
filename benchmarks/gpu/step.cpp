// SPDX-License-Identifier: Apache-2.0
// Memory and time of an ESFT step of a DeepSeek-V2-Lite-sized model with random weights, beside full fine-tuning of as many layers as fit.
// Exit code 3 where weights and training state take more than 60 GB. What the device holds between two steps, as it counts itself, stands
// beside: workspaces and its own context come on top of what is planned.
//   esft_gpu_step [--small] [EXPERT_CFG]     without a selection, a stand-in: experts 0 to 4 of every MoE layer, 130 in all
#include "floors.hpp"
#include "../step.hpp"

#include <esft/backends/cuda.hpp>
#include <esft/io/expert_config.hpp>
#include <esft/peft/plans/esft.hpp>
#include <esft/peft/plans/full.hpp>

#include <cstdio>
#include <exception>
#include <string>
#include <string_view>

namespace {

using namespace esft;
using backend = cuda_backend<bf16>;
constexpr double giga = 1e9;

/// `demanded`: the step whose memory has a bound.
void row(bench::floor_table& table, const char* what, index layers, const bench::step_figures& f, bool demanded) {
  char name[160];
  char memory[96];
  char time[96];
  const auto trained = static_cast<double>(f.trained);
  std::snprintf(name, sizeof(name), "%s, %d layers, %.4g trained parameters", what, static_cast<int>(layers), trained);
  const double taken = static_cast<double>(f.weights_and_state) / giga;
  std::snprintf(memory, sizeof(memory), "%.4g GB weights and training state, %.4g GB held by the device", taken,
                static_cast<double>(f.resident) / giga);
  std::snprintf(time, sizeof(time), "%.4g us a token, loss %.3f", f.seconds_per_token * 1e6, f.loss);
  table.row(name, memory, time, taken, demanded ? bench::floor_of{bench::floor_side::at_most, 60, "GB"} : bench::floor_of{});
}
std::size_t count_of(const expert_set& experts) {
  std::size_t count = 0;
  for (const auto& [layer, chosen] : experts.layers) count += chosen.size();
  return count;
}
/// Whether it fits, with a tenth left for what the plan does not count.
bool fits(const memory_estimate& plan, std::int64_t available) { return plan.total() <= available / 10 * 9; }

int run(bool tiny, const char* selection) {
  const std::int64_t available = backend().free_memory();
  const auto shape = [&](index layers) { return tiny ? bench::small(layers) : bench::v2_lite(layers); };
  const index layers = tiny ? 3 : 27;
  const index rows = tiny ? 2 : 4;
  const index length = tiny ? 16 : 2048;
  const int steps = tiny ? 1 : 5;
  const auto measure = [&](const cuda_options& how, const decoder_config& c, const trainable_set& trained, bool record) {
    backend b(how);
    return bench::measure_step(
        b, c, trained, rows, length, steps, record, [&] { b.synchronise(); }, [&] { return available - b.free_memory(); });
  };

  expert_config chosen;
  if (selection != nullptr) {
    chosen = read_expert_config(selection);
  } else {
    for (std::int32_t l = 1; l < static_cast<std::int32_t>(layers); ++l) {
      for (std::int32_t e = 0; e < 5; ++e) chosen.experts.layers[layer_index{l}].push_back(expert_index{e});
    }
  }
  const decoder_config c = shape(layers);
  const esft_plan method{chosen.experts, chosen.shared_experts, chosen.non_expert_modules};
  const trainable_set experts = method.trainable(bench::planned_inventory(c));
  const memory_estimate plan = bench::plan_step<backend>(c, experts, rows * length);
  if (!fits(plan, available)) {
    std::printf("SKIP: the ESFT step needs %.4g GB, the device has %.4g GB free\n", static_cast<double>(plan.total()) / giga,
                static_cast<double>(available) / giga);
    return 77;
  }
  bench::floor_table table(!tiny);
  table.row("experts trained", std::to_string(count_of(chosen.experts)) + " of " + std::to_string(layers - 1) + " layers",
            selection != nullptr ? selection : "a stand-in: 0 to 4 of each layer; no published selection was given", 0, {});
  row(table, "ESFT step, grouped batched products", layers, measure({.grouped = cuda_grouped::batched}, c, experts, false), true);
  row(table, "ESFT step, own kernels", layers, measure({.grouped = cuda_grouped::device}, c, experts, false), true);
  row(table, "ESFT step, own kernels, recorded in a graph", layers, measure({.grouped = cuda_grouped::device}, c, experts, true), true);

  index full = layers;
  const auto everything = [&](index count) { return full_plan{}.trainable(bench::planned_inventory(shape(count))); };
  while (full > 1 && !fits(bench::plan_step<backend>(shape(full), everything(full), rows * length), available)) --full;
  if (!fits(bench::plan_step<backend>(shape(full), everything(full), rows * length), available)) {
    std::puts("SKIP: not even one layer fits full fine-tuning");
    return 77;
  }
  row(table, "full fine-tuning, as many layers as fit", full,
      measure({.grouped = cuda_grouped::batched}, shape(full), everything(full), false), false);
  return table.exit_code();
}

}  // namespace

int main(int argc, char** argv) {
  bool tiny = false;
  const char* selection = nullptr;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--small") {
      tiny = true;
    } else {
      selection = argv[i];
    }
  }
  if (backend::devices() == 0) {
    std::puts("SKIP: cuda: no device");
    return 77;
  }
  try {
    return run(tiny, selection);
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
}
