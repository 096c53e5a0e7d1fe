// SPDX-License-Identifier: Apache-2.0
// The training step of one layer of DeepSeek-V2-Lite, attention and all, and which share of it the ops around the products take:
// v2_lite/step/esft/dtype/tokens/random/first5/threads. Documents of 512 tokens, random weights, experts 0 to 4 of 64 trained.
#include "ceilings.hpp"
#include "step.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/peft/plans/esft.hpp>

#include <benchmark/benchmark.h>

#include <array>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace esft::bench {
namespace {

enum class part : std::uint8_t { attention, rms_norm, rope, cross_entropy, adamw };
// `adamw` is all that is done to trained pieces: clearing and measuring their gradients, and the update
constexpr std::array<const char*, 5> part_names = {"attention", "rms_norm", "rope", "cross_entropy", "adamw"};

/// Adds the time of its life to a sum. @unit seconds
class stopwatch {
 public:
  explicit stopwatch(double& sum) : sum_(&sum) {}
  stopwatch(const stopwatch&) = delete;
  stopwatch& operator=(const stopwatch&) = delete;
  ~stopwatch() { *sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double* sum_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// The CPU backend with a stopwatch at the ops that are no products.
template <class T>
class clocked_backend : public eigen_backend<T> {
 public:
  using eigen_backend<T>::eigen_backend;
  std::array<double, part_names.size()> seconds{};

#define ESFT_CLOCKED(op, which)                                              \
  template <class... A>                                                      \
  decltype(auto) op(A&&... arguments) {                                      \
    const stopwatch running(seconds[static_cast<std::size_t>(part::which)]); \
    return eigen_backend<T>::op(std::forward<A>(arguments)...);              \
  }
  ESFT_CLOCKED(attention, attention)
  ESFT_CLOCKED(attention_backward, attention)
  ESFT_CLOCKED(rms_norm, rms_norm)
  ESFT_CLOCKED(rms_norm_dx, rms_norm)
  ESFT_CLOCKED(rms_norm_dw, rms_norm)
  ESFT_CLOCKED(cross_entropy, cross_entropy)
  ESFT_CLOCKED(adamw, adamw)
  ESFT_CLOCKED(sum_of_squares, adamw)
  ESFT_CLOCKED(clear_gradients, adamw)
#undef ESFT_CLOCKED

  using update_list = typename eigen_backend<T>::update_list;
  update_list make_update_list(std::span<const update_slice<clocked_backend>> slices) {
    std::vector<update_slice<eigen_backend<T>>> same;
    for (const auto& slice : slices) same.push_back({slice.value, slice.gradient, slice.decays});
    return eigen_backend<T>::make_update_list(same);
  }

  /// Latent attention rotates a part of each head, which the op `rope` cannot: `rotate` is a loop of its own.
  template <class Body>
  void for_each(index count, Body body) {
    double other = 0;
    constexpr bool rotation = std::same_as<Body, detail::rotate_strip<clocked_backend>>;
    const stopwatch running(rotation ? seconds[static_cast<std::size_t>(part::rope)] : other);
    eigen_backend<T>::for_each(count, body);
  }
};
static_assert(transformer_backend<clocked_backend<bf16>> && has_grouped_mlp<clocked_backend<bf16>> && has_update_list<clocked_backend<bf16>>);

/// One MoE layer, and of the vocabulary what one of 27 layers bears: embedding, head and loss weigh what they weigh in the whole model.
/// Rounded up to whole tiles of 32 rows, as the vocabulary of the model is: else the head would be row-major, on other kernels.
decoder_config layer_of_v2_lite() {
  decoder_config c = v2_lite(1);
  c.moe_layer[0] = true;
  c.vocabulary = (c.vocabulary + 27 * 32 - 1) / (27 * 32) * 32;
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
  const ceiling_watch watch(state, arithmetic_of(std::same_as<T, bf16> ? element::bf16 : element::float32), threads);
  for (auto _ : state) {
    total += run.step(batches).seconds;
    benchmark::ClobberMemory();
  }
  for (std::size_t i = 0; i < part_names.size(); ++i) state.counters[part_names[i]] = backend.seconds[i] / total;
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
