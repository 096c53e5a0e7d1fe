// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What this machine can do at most, measured in the process that measures everything else, on random data.

#include "shapes.hpp"

#include <benchmark/benchmark.h>

namespace esft::bench {

/// - float_flops: fused multiply-adds between registers @unit FLOP/s
/// - bf16_flops: AMX tile products with operands in the L1 cache @unit FLOP/s
/// - read_bytes: one pass over memory far larger than the caches @unit byte/s
/// - adamw_bytes: the streams of AdamW with bf16 weights, 28 bytes an element read and written, 2 written; the fastest of plain loads and
///   stores, with prefetches, and with stores past the caches @unit byte/s
enum class ceiling { float_flops, bf16_flops, read_bytes, adamw_bytes };

/// The ceiling that arithmetic on elements of a type is held against: of bf16 that of float where this CPU has no tiles. Products by the
/// instructions of AVX512_BF16 alone can come out above it.
ceiling arithmetic_of(element type);

/// Rate of all threads together, 0 where this CPU cannot do it; measured when first asked for. @pre threads is 1 or 2
double ceiling_of(ceiling kind, int threads);
/// Measures now: the best of some runs of a few milliseconds (arithmetic) or tens of them (memory).
double measure_ceiling(ceiling kind, int threads, int runs = 6);
/// Measures until the machine gives nearly the best it has given, `best` or more, or until `patience` seconds are over. @return the last rate
double await_ceiling(ceiling kind, int threads, double best, double patience);
/// Measures a ceiling right before and right after the timed loop and counts both, and which it was (`ceiling_kind`): each repetition can be
/// compared with what the machine gave at that time, and those during which it gave less than it can are known. Where this CPU has no such
/// ceiling it counts nothing. Before, it waits up to `ESFT_BENCH_PATIENCE` seconds (default none) for the machine to be quiet: tile units that
/// neighbours share can run at a quarter of their rate for seconds at a time.
class ceiling_watch {
 public:
  ceiling_watch(benchmark::State& state, ceiling kind, int threads);
  ~ceiling_watch();
  ceiling_watch(const ceiling_watch&) = delete;
  ceiling_watch& operator=(const ceiling_watch&) = delete;

 private:
  benchmark::State& state_;
  ceiling kind_;
  int threads_;
};

/// Measures again what was asked for in this process, and prints how far it moved: on a noisy machine that is the error of every share.
void print_drift_of_ceilings();

/// Seconds that the useful work of an op takes at the ceilings: the larger of computing and of moving what must be moved.
double roofline_seconds(double flops, double flops_ceiling, double bytes, double bytes_ceiling);

}  // namespace esft::bench
