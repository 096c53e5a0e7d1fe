// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft doctor`: what this build and this machine offer, and which kernels run.

#include "../command.hpp"
#include "../console.hpp"
#include "../engine.hpp"
#include "../format.hpp"

#include <esft/backends/eigen/isa.hpp>
#include <esft/core/config.hpp>

#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

namespace esft::tool {
namespace {

/// What the processor calls itself.
std::string processor() {
  std::string name;
#if ESFT_EIGEN_X86
  for (unsigned leaf = 0x80000002; leaf <= 0x80000004; ++leaf) {  // sixteen letters each
    unsigned letters[4] = {};
    if (__get_cpuid(leaf, &letters[0], &letters[1], &letters[2], &letters[3]) == 0) break;
    for (const unsigned four : letters) {
      for (unsigned shift = 0; shift < 32; shift += 8) {
        if (const char letter = static_cast<char>(four >> shift & 0xffU); letter != 0) name += letter;
      }
    }
  }
  name.erase(0, name.find_first_not_of(' '));
  name.erase(name.find_last_not_of(' ') + 1);
#endif
  return name.empty() ? "unknown" : name;
}

/// Those of its features that the choice of kernels depends on.
std::string processor_features() {
  std::string features;
  const detail::eigen::cpu_features has = detail::eigen::detect_features();
  for (const auto& [name, there] : detail::eigen::all_features) {
    if (has.*there) features += (features.empty() ? "" : " ") + std::string(name);
  }
  const auto with_tiles = detail::eigen::choose_isa<bf16>(has, [] { return true; });
  if (with_tiles == detail::eigen::isa::amx && !detail::eigen::tiles_permitted()) {
    features += " (the operating system refuses the tile registers)";
  }
  return features.empty() ? "none that esft uses" : features;
}

/// The instruction set for elements `T`, and the kernels that multiply with weights in the backend's own order.
template <class T>
std::string kernels() {
  const detail::eigen::isa set = detail::eigen::best_isa_for<T>();
  return std::string(detail::eigen::name_of(set)) + " (" + std::string(detail::eigen::name_of(detail::eigen::packed_kernels<T>(set))) + ")";
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

std::string devices() {
#if defined(ESFT_TOOL_HAS_CUDA)
  return cuda_engine::device();
#else
  std::error_code ignored;
  const bool driver = std::filesystem::exists("/dev/nvidiactl", ignored);
  return std::string("not in this build") + (driver ? " (this machine has an NVIDIA driver)" : " (and no NVIDIA driver on this machine)");
#endif
}

void doctor() {
  const auto pages = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  std::string backends;
  for (const std::string& name : names_of(builtin_engines{})) backends += (backends.empty() ? "" : " ") + name;
  const detail::eigen::isa best = detail::eigen::best_isa();
  const std::vector<std::pair<std::string, std::string>> facts{
      {"version", ESFT_VERSION_STRING},
      {"compiler", compiler()},
      {"backends", backends},
      {"eigen kernels",
       "float32: " + kernels<float>() + "; bfloat16: " + kernels<bf16>() + "; plain where whole tiles do not cover a matrix"},
      {"default dtype", best == detail::eigen::isa::amx ? "bfloat16 for bfloat16 checkpoints, else float32" : "float32"},
      {"processor", processor()},
      {"features", processor_features()},
      {"threads", std::to_string(std::max(1U, std::thread::hardware_concurrency()))},
      {"memory", bytes_text(pages)},
      {"cuda", devices()},
  };
  json_value result = json_object();
  for (const auto& [name, value] : facts) {
    out().line(name + std::string(15 - name.size(), ' ') + value);
    result.add(name, value);
  }
  if (best == detail::eigen::isa::generic)
    out().warn("this processor has neither AVX2 nor AVX-512: the eigen backend runs at a fraction of its speed");
  out().result(result);
}

}  // namespace

void add_doctor(CLI::App& app) {
  app.add_subcommand("doctor", "Say what this build and this machine offer")->callback([] { doctor(); });
}

}  // namespace esft::tool
