// SPDX-License-Identifier: Apache-2.0
// What `esft doctor` says of this machine is what the machine does.
#include "end_to_end/workspace.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/nn/weight.hpp>

#include <fstream>
#include <string>
#include <string_view>
#include <utility>

namespace end_to_end_doctor_tests {

class doctor : public end_to_end::workspace {};

/// The instruction set of a backend and the kernels that served a product with a weight in its own order: "avx2 (panels)".
template <class T>
std::string kernels_that_ran() {
  esft::eigen_backend<T> b(1);
  esft::weight<esft::eigen_backend<T>, 2, esft::parameter_role::head> w;
  esft::allocate(b, w, {64, 96});
  EXPECT_FALSE(w.layout().row_major());
  b.fill(w.value.elements(), T(1.0F));
  auto x = b.template make_tensor<T>(esft::extents<2>{37, 96});
  auto y = b.template make_tensor<T>(esft::extents<2>{37, 64});
  b.fill(x.view(), T(1.0F));
  b.linear(std::as_const(x).view(), std::as_const(w).matrix(), y.view(), esft::write_mode::overwrite);
  std::string served;
  for (const std::string_view family : {"plain", "panels", "pairs", "tiles"}) {
    if (b.products(family) != 0) served += std::string(family);
  }
  return std::string(b.isa()) + " (" + served + ")";
}

/// The value of a line of /proc/cpuinfo, empty where there is none.
std::string cpu_line(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (line.rfind(key, 0) == 0 && colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
  }
  return {};
}

TEST_F(doctor, names_the_kernels_that_run) {
  const esft::json_value text = json(succeed({"doctor", "--json"}));
  const esft::json_reader said(text, "output");
  const std::string kernels(said.at("eigen kernels").string());
  const std::string expected = "float32: " + kernels_that_ran<float>() + "; bfloat16: " + kernels_that_ran<esft::bf16>() + ";";
  EXPECT_EQ(kernels.substr(0, expected.size()), expected);
  EXPECT_EQ(std::string(said.at("default dtype").string()).rfind("bfloat16", 0) == 0, esft::eigen_backend<esft::bf16>(1).isa() == "amx");
}

TEST_F(doctor, names_the_processor_and_every_feature_that_the_choice_needs) {
  const std::string flags = cpu_line("flags");
  if (flags.empty()) GTEST_SKIP() << "the system lists no features of this CPU";
  const esft::json_value text = json(succeed({"doctor", "--json"}));
  const esft::json_reader said(text, "output");
  if (const std::string name = cpu_line("model name"); !name.empty()) {
    EXPECT_EQ(said.at("processor").string(), name.substr(0, name.find_last_not_of(' ') + 1));
  }
  const std::string features = " " + std::string(said.at("features").string()) + " ";
  for (const char* feature : {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"}) {
    const std::string word = " " + std::string(feature) + " ";
    EXPECT_EQ(features.find(word) != std::string::npos, (" " + flags + " ").find(word) != std::string::npos) << feature;
  }
}

}  // namespace end_to_end_doctor_tests
