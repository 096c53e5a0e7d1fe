// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The layers that are measured, and the cases of each: tokens, routing, selection, threads.

#include <esft/core/shape.hpp>

#include <string>
#include <vector>

namespace esft::bench {

/// Sizes of one MoE layer: width D, expert width I, experts E, active experts K.
struct layer_shape {
  const char* name;
  index width, inner, experts, active;
  bool bf16_only;             ///< float weights of 5.6 GB, 11.3 GB with a baseline's copy: too much beside those of bf16 in 24 GB
  bool published;             ///< the published routing logs are those of a model of this shape

  friend bool operator==(const layer_shape& a, const layer_shape& b) { return a.name == b.name; }
};

/// The shapes of DeepSeek-V2-Lite, Qwen3-30B-A3B, OLMoE, Mixtral 8x7B and the bundled model.
inline const std::vector<layer_shape>& layer_shapes() {
  static const std::vector<layer_shape> shapes = {
      {"v2_lite", 2048, 1408, 64, 6, false, true},  {"qwen3_30b", 2048, 768, 128, 8, false, false},
      {"olmoe", 2048, 1024, 64, 8, false, false},   {"mixtral", 4096, 14336, 8, 2, true, false},
      {"bundled", 128, 64, 32, 4, false, false},
  };
  return shapes;
}

enum class element { float32, bf16 };

/// One case of one op.
struct bench_case {
  const layer_shape* shape;
  element type;
  index tokens;
  std::string routing;    ///< see routing.hpp
  std::string selection;  ///< see routing.hpp
  int threads;

  [[nodiscard]] index rows() const { return tokens * shape->active; }
  [[nodiscard]] std::string name(const std::string& op, const std::string& backend) const {
    return std::string(shape->name) + "/" + op + "/" + backend + "/" + (type == element::bf16 ? "bf16" : "float") + "/T" + std::to_string(tokens) +
           "/" + routing + "/" + selection + "/threads" + std::to_string(threads);
  }
};

}  // namespace esft::bench
