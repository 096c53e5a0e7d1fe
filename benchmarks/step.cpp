// SPDX-License-Identifier: Apache-2.0
// The training step of one layer of DeepSeek-V2-Lite, attention and all, and which share of it the ops around the products take:
// v2_lite/step/esft/dtype/tokens/random/first5/threads. Documents of 512 tokens, random weights, experts 0 to 4 of 64 trained.
#include "gpu/step.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/peft/plans/esft.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <span>
#include <string>
#include <utility>

namespace esft::bench {
namespace {

enum class part : std::uint8_t { attention, rms_norm, rope, cross_entropy, adamw };
constexpr std::array<const char*, 5> part_names = {"attention", "rms_norm", "rope", "cross_entropy", "adamw"};

/// The CPU backend with a clock at the ops that are no products.
template <class T>
class clocked_backend : public eigen_backend<T> {
  using base = eigen_backend<T>;

 public:
  using base::base;
  std::array<double, part_names.size()> seconds{};

  template <class... A>
  void attention(A&&... a) {
    timed(part::attention, [&] { base::attention(std::forward<A>(a)...); });
  }
  template <class... A>
  void attention_backward(A&&... a) {
    timed(part::attention, [&] { base::attention_backward(std::forward<A>(a)...); });
  }
  template <class... A>
  void rms_norm(A&&... a) {
    timed(part::rms_norm, [&] { base::rms_norm(std::forward<A>(a)...); });
  }
  template <class... A>
  void rms_norm_dx(A&&... a) {
    timed(part::rms_norm, [&] { base::rms_norm_dx(std::forward<A>(a)...); });
  }
  template <class... A>
  void rms_norm_dw(A&&... a) {
    timed(part::rms_norm, [&] { base::rms_norm_dw(std::forward<A>(a)...); });
  }
  template <class... A>
  void rope(A&&... a) {
    timed(part::rope, [&] { base::rope(std::forward<A>(a)...); });
  }
  template <class... A>
  double cross_entropy(A&&... a) {
    double loss = 0;
    timed(part::cross_entropy, [&] { loss = base::cross_entropy(std::forward<A>(a)...); });
    return loss;
  }
  template <class... A>
  void adamw(A&&... a) {
    timed(part::adamw, [&] { base::adamw(std::forward<A>(a)...); });
  }

 private:
  template <class Op>
  void timed(part which, Op&& op) {
    const auto start = std::chrono::steady_clock::now();
    op();
    seconds[static_cast<std::size_t>(which)] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};
static_assert(transformer_backend<clocked_backend<bf16>> && has_grouped_mlp<clocked_backend<bf16>>);

/// One MoE layer, and of the vocabulary what one of 27 layers bears: embedding, head and loss weigh what they weigh in the whole model.
decoder_config layer_of_v2_lite() {
  decoder_config c = v2_lite(1);
  c.moe_layer[0] = true;
  c.vocabulary = (c.vocabulary + 26) / 27;
  return c;
}

template <class T>
void step(benchmark::State& state, index tokens, int threads) {
  constexpr index document = 512;
  const decoder_config c = layer_of_v2_lite();
  clocked_backend<T> backend(threads);
  decoder<clocked_backend<T>> model(backend, c);
  fill_at_random(backend, model.parameters);
  expert_set experts;
  for (std::int32_t e = 0; e < 5; ++e) experts.layers[layer_index{0}].push_back(expert_index{e});
  trainable_set trained = esft_plan{experts, false, false}.trainable(planned_inventory(c));
  trained.whole.insert({parameter_role::attention_norm, layer_index{0}});  // so that gradients pass the attention, as in a middle layer
  apply(backend, model.parameters, trained);
  trainer<decoder<clocked_backend<T>>> run(backend, model, {.learning_rate = 1e-6});
  const token_batch batch = random_batch(c, tokens / document, document);
  const std::span<const token_batch> batches(&batch, 1);
  run.step(batches);  // tables, scratch memory and pages
  backend.seconds = {};
  double total = 0;
  for (auto _ : state) {
    total += run.step(batches).seconds;
    benchmark::ClobberMemory();
  }
  double largest = 0;
  for (std::size_t i = 0; i < part_names.size(); ++i) {
    const double share = backend.seconds[i] / total;
    state.counters[part_names[i]] = share;
    largest = std::max(largest, share);
  }
  state.counters["largest"] = largest;
  state.SetLabel(std::string(backend.isa()));
}

template <class T>
void add(const char* type, index tokens, int threads) {
  const std::string name = std::string("v2_lite/step/esft/") + type + "/T" + std::to_string(tokens) + "/random/first5/threads" +
                           std::to_string(threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { step<T>(state, tokens, threads); })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

const bool registered = [] {
  for (const int threads : {1, 2}) {
    for (const index tokens : {index{1024}, index{4096}}) {
      add<bf16>("bf16", tokens, threads);
      add<float>("float", tokens, threads);
    }
  }
  return true;
}();

}  // namespace
}  // namespace esft::bench
