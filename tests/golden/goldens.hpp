// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Golden numbers of PyTorch: tensors of a safetensors file as doubles or ids, and the bound that results must keep.

#include "numeric.hpp"

#include <esft/io/expert_slices.hpp>
#include <esft/io/safetensors.hpp>
#include <esft/nn/weight.hpp>

#include <algorithm>
#include <filesystem>
#include <stdexcept>

namespace esft_test {

/// Largest error relative to the largest golden element. PyTorch computed in float32, whose products and sums of up to 24 terms carry an
/// error of a few 6e-8 each; through three layers and back this adds up to some 1e-6. A double result stays as far from the golden
/// numbers as float32 is from the truth, so that the bound is the same for every element type of ours.
inline constexpr double golden_bound = 1e-5;

inline std::filesystem::path golden_path(const std::string& name) {
  return std::filesystem::path(ESFT_TEST_SOURCE_DIR) / "tests" / "golden" / name;
}

/// Tensors of one case: names in the file begin with `prefix`.
class goldens {
 public:
  explicit goldens(const std::string& file, std::string prefix = {})
      : file_(esft::safetensors_file::open(golden_path(file))), prefix_(std::move(prefix)) {}

  [[nodiscard]] bool has(const std::string& name) const { return file_.find(prefix_ + name) != nullptr; }
  [[nodiscard]] std::vector<double> numbers(const std::string& name) const {
    const esft::tensor_record record = part(prefix_ + name);
    std::vector<float> stored(static_cast<std::size_t>(record.element_count()));
    file_.read_floats(record, stored);
    return {stored.begin(), stored.end()};
  }
  [[nodiscard]] std::vector<std::int32_t> ids(const std::string& name) const {
    const auto& record = file_.at(prefix_ + name);
    std::vector<std::int32_t> stored(static_cast<std::size_t>(record.element_count()));
    file_.read(record, std::as_writable_bytes(std::span(stored)));
    return stored;
  }
  template <std::size_t Rank>
  [[nodiscard]] esft::extents<Rank> shape(const std::string& name) const {
    const auto& stored = file_.at(prefix_ + name).shape;
    if (stored.size() != Rank) throw std::runtime_error("golden tensor " + prefix_ + name + " has another rank");
    esft::extents<Rank> result{};
    std::copy(stored.begin(), stored.end(), result.begin());
    return result;
  }
  /// A golden tensor in a backend's memory.
  template <class T, std::size_t Rank, class Backend>
  [[nodiscard]] auto tensor(Backend& backend, const std::string& name) const {
    return make<T>(backend, shape<Rank>(name), numbers(name));
  }
  /// Gives a weight its golden value, trained, where the file has it.
  template <class Backend, std::size_t Rank, esft::parameter_role Role>
  void load(Backend& backend, esft::weight<Backend, Rank, Role>& w, const std::string& name) const {
    if (!has(name)) return;
    w.value = tensor<esft::value_t<Backend>, Rank>(backend, name);
    w.train(backend);
  }
  /// Compares with the golden tensor.
  template <class Backend, class Tensor>
  void expect(Backend& backend, const Tensor& got, const std::string& name) const {
    expect_close(to_host(backend, got), numbers(name), golden_bound, prefix_ + name);
  }
  template <class Backend, std::size_t Rank, esft::parameter_role Role>
  void expect_gradient(Backend& backend, const esft::weight<Backend, Rank, Role>& w, const std::string& name) const {
    ASSERT_EQ(w.exists(), has(name)) << prefix_ << name;
    if (has(name)) expect(backend, w.gradient, "d_" + name);
  }

  /// Whether the tensors of all experts of a layer are one.
  [[nodiscard]] bool fused() const {
    return std::any_of(file_.tensors().begin(), file_.tensors().end(),
                       [](const auto& record) { return !esft::expert_slices(record, esft::fused_layout::halves).empty(); });
  }

 private:
  /// A tensor, or an expert's part of one that holds all experts of a layer.
  [[nodiscard]] esft::tensor_record part(const std::string& name) const {
    if (const auto* record = file_.find(name)) return *record;
    for (const auto& record : file_.tensors()) {
      const bool interleaved = file_.find(esft::fused_bias_name(record.name)) != nullptr;
      for (auto& slice : esft::expert_slices(record, interleaved ? esft::fused_layout::interleaved : esft::fused_layout::halves)) {
        if (slice.name == name) return slice;
      }
    }
    return file_.at(name);
  }

  esft::safetensors_file file_;
  std::string prefix_;
};

}  // namespace esft_test
