// SPDX-License-Identifier: Apache-2.0
// The program: Google Benchmark's, plus the drift of the ceilings, and the routing of a case for programs in other languages.
#include "ceilings.hpp"
#include "layers.hpp"
#include "routing.hpp"

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

namespace {

/// Prints a case as JSON: `esft_benchmarks --print_case SHAPE TOKENS ROUTING SELECTION`.
int print_case(const char* const* words) {
  for (const auto& shape : esft::bench::layer_shapes()) {
    if (std::strcmp(shape.name, words[0]) != 0) continue;
    const esft::index tokens = std::atol(words[1]);
    const auto ids = esft::bench::routed_ids(shape, tokens, words[2]);
    const auto print = [](const char* key, auto values) {
      std::printf("\"%s\": [", key);
      for (std::size_t i = 0; i < values.size(); ++i) std::printf(i == 0 ? "%d" : ",%d", values[i]);
      std::printf("]");
    };
    std::printf("{\"shape\": \"%s\", \"tokens\": %td, \"width\": %td, \"inner\": %td, \"experts\": %td, \"active\": %td, ", shape.name, tokens,
                shape.width, shape.inner, shape.experts, shape.active);
    std::printf("\"routing\": \"%s\", \"selection\": \"%s\", ", words[2], words[3]);
    print("selected", esft::bench::selected_experts(shape, ids, words[3]));
    std::printf(", ");
    print("ids", ids);
    std::printf("}\n");
    return 0;
  }
  std::fprintf(stderr, "no shape '%s'\n", words[0]);
  return 1;
}

/// Inputs, weights and results of a case, see layers.hpp: `esft_benchmarks --dump_layer SHAPE TOKENS ROUTING SELECTION FILE`.
int dump_layer(const char* const* words) {
  for (const auto& shape : esft::bench::layer_shapes()) {
    if (std::strcmp(shape.name, words[0]) != 0) continue;
    esft::bench::dump_layer({&shape, esft::bench::element::float32, std::atol(words[1]), words[2], words[3], 2}, words[4]);
    return 0;
  }
  std::fprintf(stderr, "no shape '%s'\n", words[0]);
  return 1;
}

/// Prints the arithmetic ceiling of TYPE (bf16 or float) once the machine gives nearly BEST, or after SECONDS:
/// `esft_benchmarks --await_ceiling TYPE THREADS BEST SECONDS`.
int await_ceiling(const char* const* words) {
  using esft::bench::element;
  const auto kind = esft::bench::arithmetic_of(std::strcmp(words[0], "bf16") == 0 ? element::bf16 : element::float32);
  std::printf("%.0f\n", esft::bench::await_ceiling(kind, std::atoi(words[1]), std::atof(words[2]), std::atof(words[3])));
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc == 6 && std::strcmp(argv[1], "--print_case") == 0) return print_case(argv + 2);
  if (argc == 7 && std::strcmp(argv[1], "--dump_layer") == 0) return dump_layer(argv + 2);
  if (argc == 6 && std::strcmp(argv[1], "--await_ceiling") == 0) return await_ceiling(argv + 2);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  if (esft::bench::published_layers().empty()) {
    std::fputs("ESFT_OFFICIAL_DATA is not set: no routing is replayed from the published logs\n", stderr);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  esft::bench::print_drift_of_ceilings();
  return 0;
} catch (const std::exception& fault) {
  std::fprintf(stderr, "%s\n", fault.what());
  return 1;
}
