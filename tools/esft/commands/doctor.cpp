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

std::string processor_features() {
  std::string features;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const auto add = [&](bool there, const char* name) {
    if (there) features += (features.empty() ? "" : " ") + std::string(name);
  };
  add(__builtin_cpu_supports("avx2") != 0, "avx2");
  add(__builtin_cpu_supports("fma") != 0, "fma");
  add(__builtin_cpu_supports("avx512f") != 0, "avx512f");
  add(__builtin_cpu_supports("avx512bw") != 0, "avx512bw");
#if ESFT_EIGEN_X86
  const detail::eigen::newer_features newer = detail::eigen::detect_newer_features();
  add(newer.avx512_bf16, "avx512_bf16");
  add(newer.amx_bf16, "amx_bf16");
  if (newer.amx_bf16 && !detail::eigen::tiles_permitted()) features += " (the operating system refuses the tile registers)";
#endif
#endif
  return features.empty() ? "none that esft uses" : features;
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
  const std::string kernels(detail::eigen::name_of(detail::eigen::best_isa_for<float>()));
  const std::string half(detail::eigen::name_of(detail::eigen::best_isa_for<bf16>()));
  const std::vector<std::pair<std::string, std::string>> facts{
      {"version", ESFT_VERSION_STRING},
      {"compiler", compiler()},
      {"backends", backends},
      {"eigen kernels", "float32: " + kernels + "; bfloat16: " + half},
      {"default dtype", half == "amx" ? "bfloat16 for bfloat16 checkpoints, else float32" : "float32"},
      {"processor", processor_features()},
      {"threads", std::to_string(std::max(1U, std::thread::hardware_concurrency()))},
      {"memory", bytes_text(pages)},
      {"cuda", devices()},
  };
  json_value result = json_object();
  for (const auto& [name, value] : facts) {
    out().line(name + std::string(15 - name.size(), ' ') + value);
    result.add(name, value);
  }
  if (kernels == "generic") out().warn("this processor has neither AVX2 nor AVX-512: the eigen backend runs at a fraction of its speed");
  out().result(result);
}

}  // namespace

void add_doctor(CLI::App& app) {
  app.add_subcommand("doctor", "Say what this build and this machine offer")->callback([] { doctor(); });
}

}  // namespace esft::tool
