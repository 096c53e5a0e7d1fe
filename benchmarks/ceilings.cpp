// SPDX-License-Identifier: Apache-2.0
#include "ceilings.hpp"
#include "random.hpp"

#include <esft/backends/eigen/large_pages.hpp>
#include <esft/backends/eigen/simd.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

namespace esft::bench {
namespace {

using detail::eigen::isa;
using seconds = std::chrono::duration<double>;

/// Calls `work(thread)` on every thread at once and returns the seconds until the last is done.
template <class Work>
double timed(int threads, Work work) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back([&work, t] { work(t); });
  work(0);
  for (auto& other : others) other.join();
  return seconds(std::chrono::steady_clock::now() - start).count();
}

/// The best of a few runs of `work(thread)`, which does `amount` a thread: a ceiling is what the machine can do, not what it did today.
template <class Work>
double best_rate(int threads, double amount, Work work, int runs) {
  double best = 1e30;
  for (int run = 0; run < runs; ++run) best = std::min(best, timed(threads, work));
  return amount * threads / best;
}

#if ESFT_EIGEN_X86

/// 24 sums += a b with random a and b, with alternating sign so that the sums stay random.
[[gnu::noinline]] ESFT_EIGEN_AVX512 float fma_avx512(long rounds, const float* random) {
  __m512 sum[24];
  __m512 a[3];
  __m512 b[2];
  for (int i = 0; i < 24; ++i) sum[i] = _mm512_loadu_ps(random + 16 * i);
  for (int i = 0; i < 3; ++i) a[i] = _mm512_loadu_ps(random + 500 + 16 * i);
  for (int i = 0; i < 2; ++i) b[i] = _mm512_loadu_ps(random + 600 + 16 * i);
  for (long k = 0; k < rounds; k += 2) {
#pragma GCC unroll 24
    for (int i = 0; i < 24; ++i) sum[i] = _mm512_fmadd_ps(a[i % 3], b[i % 2], sum[i]);
#pragma GCC unroll 24
    for (int i = 0; i < 24; ++i) sum[i] = _mm512_fnmadd_ps(a[(i + 1) % 3], b[i % 2], sum[i]);
  }
  for (int i = 1; i < 24; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_reduce_add_ps(sum[0]);
}

[[gnu::noinline]] ESFT_EIGEN_AVX2 float fma_avx2(long rounds, const float* random) {
  __m256 sum[10];
  __m256 a[3];
  __m256 b[2];
  for (int i = 0; i < 10; ++i) sum[i] = _mm256_loadu_ps(random + 8 * i);
  for (int i = 0; i < 3; ++i) a[i] = _mm256_loadu_ps(random + 500 + 8 * i);
  for (int i = 0; i < 2; ++i) b[i] = _mm256_loadu_ps(random + 600 + 8 * i);
  for (long k = 0; k < rounds; k += 2) {
#pragma GCC unroll 10
    for (int i = 0; i < 10; ++i) sum[i] = _mm256_fmadd_ps(a[i % 3], b[i % 2], sum[i]);
#pragma GCC unroll 10
    for (int i = 0; i < 10; ++i) sum[i] = _mm256_fnmadd_ps(a[(i + 1) % 3], b[i % 2], sum[i]);
  }
  for (int i = 1; i < 10; ++i) sum[0] = _mm256_add_ps(sum[0], sum[i]);
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, sum[0]);
  return lanes[0];
}

/// 2 x 2 output tiles over `depth` steps, again and again; all operands stay in the L1 cache.
constexpr long tile_depth = 8;
[[gnu::noinline]] ESFT_EIGEN_AMX void tile_products(long rounds, const bf16* a, const bf16* b, float* out) {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t column_bytes[16] = {};
    std::uint8_t rows[16] = {};
  } shape;
  for (int t = 0; t < 8; ++t) {
    shape.column_bytes[t] = 64;
    shape.rows[t] = 16;
  }
  _tile_loadconfig(&shape);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (long round = 0; round < rounds; ++round) {
    for (long k = 0; k < tile_depth; ++k) {
      _tile_loadd(4, a + 1024 * k, 64);
      _tile_loadd(5, a + 1024 * k + 512, 64);
      _tile_loadd(6, b + 1024 * k, 64);
      _tile_loadd(7, b + 1024 * k + 512, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, 64);
  _tile_stored(1, out + 256, 64);
  _tile_stored(2, out + 512, 64);
  _tile_stored(3, out + 768, 64);
  _tile_release();
}
#endif

/// One pass over memory that sums it, or below does to it what AdamW does. Compiled for the best instruction set by `call`.
template <class>
struct read_pass {
  static ESFT_EIGEN_INLINE void run(const float* from, long count, float* result) {
    constexpr long block = 16384;  // eight streams of 64 KiB side by side: one alone does not keep enough lines on their way
    float sum[8] = {};
    for (long i = 0; i + block * 8 <= count; i += block * 8) {
      for (long k = 0; k < block; k += 16) {
        for (long s = 0; s < 8; ++s) {
          const float* const line = from + i + s * block + k;
          __builtin_prefetch(line + 256);
          sum[s] += line[0];
        }
      }
    }
    for (const float s : sum) *result += s;
  }
};

/// Stores past the caches, at an address that is a multiple of the vector's size; an ordinary store where there is no such instruction.
template <class V>
ESFT_EIGEN_INLINE void store_around(void* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
}
#if ESFT_EIGEN_X86
inline void store_around(void* to, const detail::eigen::vector_types<16>::floats& v) { _mm_stream_ps(static_cast<float*>(to), v); }
ESFT_EIGEN_AVX2 inline void store_around(void* to, const detail::eigen::vector_types<32>::floats& v) {
  _mm256_stream_ps(static_cast<float*>(to), v);
}
ESFT_EIGEN_AVX512 inline void store_around(void* to, const detail::eigen::vector_types<64>::floats& v) {
  _mm512_stream_ps(static_cast<float*>(to), v);
}
ESFT_EIGEN_AVX2 inline void store_around(void* to, const detail::eigen::vector_types<32>::halves& v) {
  _mm_stream_si128(static_cast<__m128i*>(to), reinterpret_cast<const __m128i&>(v));
}
ESFT_EIGEN_AVX512 inline void store_around(void* to, const detail::eigen::vector_types<64>::halves& v) {
  _mm256_stream_si256(static_cast<__m256i*>(to), reinterpret_cast<const __m256i&>(v));
}
#endif

/// The streams of AdamW: what it reads and writes, and next to no arithmetic. None of these ways is the fastest on every CPU.
enum class streaming { plain, prefetched, around };
template <class vec>
struct adamw_pass {
  template <streaming How>
  static ESFT_EIGEN_INLINE void pass(bf16* weight, float* master, float* m, float* v, const float* gradient, long count) {
    using detail::eigen::load;
    constexpr long ahead = 256;
    const auto put = [](auto* to, const auto& from) __attribute__((always_inline)) {
      if constexpr (How == streaming::around) {
        store_around(to, from);
      } else {
        std::memcpy(static_cast<void*>(to), &from, sizeof from);
      }
    };
    for (long i = 0; i < count; i += detail::eigen::lanes_of<vec>) {
      if constexpr (How != streaming::plain) {
        for (const float* plane : std::initializer_list<const float*>{gradient, m, v, master}) __builtin_prefetch(plane + i + ahead);
      }
      vec g, first, second, p;
      load(g, gradient + i);
      load(first, m + i);
      load(second, v + i);
      load(p, master + i);
      first = .9F * first + .1F * g;
      second = .95F * second + .05F * g * g;
      p -= 1e-4F * first;
      put(m + i, first);
      put(v + i, second);
      put(master + i, p);
      put(weight + i, __builtin_convertvector(reinterpret_cast<detail::eigen::bits_of<vec>>(p) >> 16, detail::eigen::halves_of<vec>));
    }
  }
  static ESFT_EIGEN_INLINE void run(streaming how, bf16* weight, float* master, float* m, float* v, const float* gradient, long count) {
    if (how == streaming::plain) pass<streaming::plain>(weight, master, m, v, gradient, count);
    if (how == streaming::prefetched) pass<streaming::prefetched>(weight, master, m, v, gradient, count);
    if (how == streaming::around) pass<streaming::around>(weight, master, m, v, gradient, count);
  }
};

double float_ceiling(int threads, int runs) {
#if ESFT_EIGEN_X86
  const auto random = random_tensor<float>(extents<1>{1024}, 1);
  const isa best = std::min(detail::eigen::best_isa(), isa::avx512);
  if (best == isa::generic) return 0;
  constexpr long rounds = 300000;
  const double amount = (best == isa::avx512 ? 24.0 * 32 : 10.0 * 16) * rounds;
  return best_rate(threads, amount, [&](int) {
    benchmark::DoNotOptimize(best == isa::avx512 ? fma_avx512(rounds, random.data()) : fma_avx2(rounds, random.data()));
  }, runs);
#else
  static_cast<void>(threads + runs);
  return 0;
#endif
}

double bf16_ceiling(int threads, int runs) {
#if ESFT_EIGEN_X86
  if (detail::eigen::best_isa() < isa::amx) return 0;
  std::vector<host_tensor<bf16, 1>> a, b;
  std::vector<host_tensor<float, 1>> out;
  for (int t = 0; t < threads; ++t) {
    a.push_back(random_tensor<bf16>(extents<1>{1024 * tile_depth}, 2));
    b.push_back(random_tensor<bf16>(extents<1>{1024 * tile_depth}, 3));
    out.push_back(make_host_tensor<float, 1>({1024}));
  }
  constexpr long rounds = 10000;
  return best_rate(threads, 4 * 16384.0 * tile_depth * rounds, [&](int t) {
    const auto i = static_cast<std::size_t>(t);
    tile_products(rounds, a[i].data(), b[i].data(), out[i].data());
  }, runs);
#else
  static_cast<void>(threads + runs);
  return 0;
#endif
}

constexpr index streamed = index{1} << 27;  // floats: 512 MiB, several times the largest cache

host_tensor<float, 1>& memory() {
  static auto data = [] {
    auto made = make_host_tensor<float, 1>({streamed});
    detail::eigen::ask_for_large_pages(made.data(), static_cast<std::size_t>(made.size()) * sizeof(float));  // as the backend's own memory
    fill_random(made.data(), made.size(), 4);
    return made;
  }();
  return data;
}

double read_ceiling(int threads, int runs) {
  const index part = streamed / threads;
  const float* const data = memory().data();
  return best_rate(threads, 4.0 * static_cast<double>(part), [&](int t) {
    float sum = 0;
    detail::eigen::call<read_pass>(std::min(detail::eigen::best_isa(), isa::avx512), data + t * part, part, &sum);
    benchmark::DoNotOptimize(sum);
  }, runs);
}

double adamw_ceiling(int threads, int runs) {
  const index count = streamed / 5 / 64 * 64;  // four float streams and half of one for the weight
  const index part = count / threads / 64 * 64;
  float* const at = memory().data();
  double best = 0;
  for (const streaming how : {streaming::plain, streaming::prefetched, streaming::around}) {
    const auto work = [&](int t) {
      const index from = t * part;
      detail::eigen::call<adamw_pass>(std::min(detail::eigen::best_isa(), isa::avx512), how, reinterpret_cast<bf16*>(at + 4 * count) + from,
                                      at + from, at + count + from, at + 2 * count + from, static_cast<const float*>(at + 3 * count + from),
                                      part);
    };
    best = std::max(best, best_rate(threads, 30.0 * static_cast<double>(part), work, runs));
  }
  return best;
}

constexpr const char* names[] = {"float_flops", "bf16_flops", "read_bytes", "adamw_bytes"};
double first_measured[4][2];  // 0: not yet
double best_seen[4][2];  // of what a watch saw; 0: nothing yet

const bool registered = [] {
  for (int kind = 0; kind < 4; ++kind) {
    for (const int threads : {1, 2}) {
      const std::string name = std::string("ceiling/") + names[kind] + "/threads" + std::to_string(threads);
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
        double best = 0;
        for (auto _ : state) best = std::max(best, measure_ceiling(static_cast<ceiling>(kind), threads));
        if (best > 0) {
          state.counters["rate"] = best;
        } else {
          state.SkipWithError("not on this CPU");
        }
      })->UseRealTime()->Iterations(1)->Unit(benchmark::kMillisecond);
    }
  }
  return true;
}();

}  // namespace

double measure_ceiling(ceiling kind, int threads, int runs) {
  switch (kind) {
    case ceiling::float_flops:
      return float_ceiling(threads, runs);
    case ceiling::bf16_flops:
      return bf16_ceiling(threads, runs);
    case ceiling::read_bytes:
      return read_ceiling(threads, runs);
    case ceiling::adamw_bytes:
      return adamw_ceiling(threads, runs);
  }
  return 0;
}

ceiling arithmetic_of(element type) {
  return type == element::bf16 && detail::eigen::best_isa() >= isa::amx ? ceiling::bf16_flops : ceiling::float_flops;
}

double ceiling_of(ceiling kind, int threads) {
  double& found = first_measured[static_cast<int>(kind)][threads > 1 ? 1 : 0];
  if (found == 0) found = measure_ceiling(kind, threads);
  return found;
}

double await_ceiling(ceiling kind, int threads, double best, double patience) {
  const auto start = std::chrono::steady_clock::now();
  double rate = measure_ceiling(kind, threads, 2);
  while (rate < 0.9 * best && seconds(std::chrono::steady_clock::now() - start).count() < patience) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    rate = measure_ceiling(kind, threads, 2);
  }
  return rate;
}

ceiling_watch::ceiling_watch(benchmark::State& state, ceiling kind, int threads) : state_(state), kind_(kind), threads_(threads) {
  double& best = best_seen[static_cast<int>(kind)][threads > 1 ? 1 : 0];
  const char* const patience = std::getenv("ESFT_BENCH_PATIENCE");
  const double before = await_ceiling(kind, threads, best, patience == nullptr ? 0 : std::atof(patience));
  best = std::max(best, before);
  if (best == 0) return;
  state_.counters["ceiling_kind"] = static_cast<double>(kind);
  state_.counters["ceiling_before"] = before;
}
ceiling_watch::~ceiling_watch() {
  if (state_.counters.contains("ceiling_before")) state_.counters["ceiling_after"] = measure_ceiling(kind_, threads_, 2);
}

void print_drift_of_ceilings() {
  for (int kind = 0; kind < 4; ++kind) {
    for (const int threads : {1, 2}) {
      const double before = first_measured[kind][threads - 1];
      if (before == 0) continue;
      const double now = measure_ceiling(static_cast<ceiling>(kind), threads);
      std::fprintf(stderr, "ceiling %s, %d thread%s: %.2f G/s at the start, %.2f G/s at the end (%+.0f %%)\n", names[kind], threads,
                   threads > 1 ? "s" : "", before * 1e-9, now * 1e-9, 100 * (now / before - 1));
    }
  }
}

double roofline_seconds(double flops, double flops_ceiling, double bytes, double bytes_ceiling) {
  return std::max(flops_ceiling > 0 ? flops / flops_ceiling : 0, bytes / bytes_ceiling);
}

}  // namespace esft::bench
