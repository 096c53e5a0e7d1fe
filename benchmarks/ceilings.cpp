// SPDX-License-Identifier: Apache-2.0
// What this CPU can do at most, measured in the same run as everything else.
#include <esft/backends/eigen/isa.hpp>

#include <benchmark/benchmark.h>

namespace {

#if ESFT_EIGEN_X86
[[gnu::noinline]] ESFT_EIGEN_AVX512 float fma_chain(long rounds, float start) {
  __m512 sum[24];
  for (int i = 0; i < 24; ++i) sum[i] = _mm512_set1_ps(start * static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.9991F);
  const __m512 term = _mm512_set1_ps(0.0017F);
  for (long k = 0; k < rounds; ++k) {
#pragma GCC unroll 24
    for (int i = 0; i < 24; ++i) sum[i] = _mm512_fmadd_ps(sum[i], factor, term);
  }
  for (int i = 1; i < 24; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_reduce_add_ps(sum[0]);
}

void register_fma(benchmark::State& state) {
  if (esft::detail::eigen::best_isa() < esft::detail::eigen::isa::avx512) {
    state.SkipWithError("no AVX-512");
    return;
  }
  constexpr long rounds = 200000;
  float start = 0.37F;
  for (auto _ : state) {
    benchmark::DoNotOptimize(start);  // unknown to the compiler: otherwise the chain is computed once, before the loop
    benchmark::DoNotOptimize(fma_chain(rounds, start));
  }
  state.counters["FLOP/s"] = benchmark::Counter(24.0 * 32 * rounds, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(register_fma)->Name("ceiling/register_fma/float");
#endif

}  // namespace
