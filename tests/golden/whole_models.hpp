// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The golden models of whole families: which there are, their batch, their routing, and the gradients of every tensor.

#include "golden/goldens.hpp"

#include <esft/core/routing_record.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/model/load.hpp>
#include <esft/peft/plans/full.hpp>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace esft_test {

/// Folders of golden models, in the order of their names.
inline std::vector<std::string> golden_models() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden_path(""))) {
    if (std::filesystem::exists(entry.path() / "config.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Both sequences of the golden batch, packed one behind the other.
inline esft::token_batch packed(const goldens& golden) {
  const auto shape = golden.shape<2>("tokens");
  esft::token_batch batch{golden.ids("tokens"), golden.ids("labels"), {}, {}, {}};
  for (std::int32_t row = 0; row < shape[0]; ++row) {
    for (std::int32_t position = 0; position < shape[1]; ++position) {
      batch.position.push_back(position);
      batch.key_begin.push_back(row * static_cast<std::int32_t>(shape[1]));
      batch.sample.push_back(row);
    }
  }
  return batch;
}

/// Decisions of one layer, each token's sorted by expert, as golden files hold them.
struct sorted_routing {
  std::vector<std::int32_t> ids;
  std::vector<double> weights;
};

inline sorted_routing sorted_by_expert(const esft::routing_record& record) {
  const auto active = static_cast<std::ptrdiff_t>(record.active);
  std::vector<std::pair<std::int32_t, float>> chosen;
  for (std::size_t i = 0; i < record.ids.size(); ++i) chosen.emplace_back(record.ids[i], record.weights[i]);
  sorted_routing result;
  for (auto row = chosen.begin(); row != chosen.end(); row += active) std::sort(row, row + active);
  for (const auto& [id, weight] : chosen) {
    result.ids.push_back(id);
    result.weights.push_back(weight);
  }
  return result;
}

/// Compares the decisions of every layer that routes with the golden ones. A golden file without them is a failure, and so is a layer
/// that the model never reported: call `finish` after the pass.
class routing_comparison {
 public:
  /// Compares the decisions of one layer: ours, golden, name.
  using compare = std::function<void(const sorted_routing&, const sorted_routing&, const std::string&)>;

  routing_comparison(const goldens& golden, compare how) : golden_(&golden), compare_(std::move(how)) {}

  void operator()(const esft::routing_record& record) {
    const std::string name = "routing." + std::to_string(record.layer.value);
    ++layers_;
    ASSERT_TRUE(golden_->has(name + ".ids") && golden_->has(name + ".weights")) << "the golden file holds no " << name;
    const sorted_routing want{golden_->ids(name + ".ids"), golden_->numbers(name + ".weights")};
    ASSERT_EQ(record.ids.size(), want.ids.size()) << name;
    compare_(sorted_by_expert(record), want, name);
  }
  void finish(const esft::decoder_config& config) const {
    EXPECT_EQ(layers_, std::count(config.moe_layer.begin(), config.moe_layer.end(), true)) << "layers that reported their routing";
  }

 private:
  const goldens* golden_;
  compare compare_;
  std::ptrdiff_t layers_ = 0;
};

/// Gradients of everything under the names that the checkpoint has. @pre every parameter is trained
template <class Model>
std::map<std::string, std::vector<double>> gradients_by_name(typename Model::backend_type& backend, Model& model) {
  std::map<std::string, std::vector<double>> result;
  esft::for_each_parameter(model.parameters, [&](esft::parameter_key key, auto& w) {
    esft::for_each_piece(model.config.names, key, w, [&](const esft::hf_piece& piece, auto) {
      const auto rows = std::as_const(w).gradient_rows(std::max(0, piece.expert), piece.first_row, piece.row_count());
      std::vector<double> gradient(static_cast<std::size_t>(rows.size()));
      esft::piece_out(backend, piece, rows, std::span<double>(gradient));
      result.emplace(piece.name, std::move(gradient));
    });
  });
  return result;
}

/// The routers' biases on the choice, which a checkpoint holds and nobody trains.
template <class Model>
std::size_t buffer_count(Model& model) {
  std::size_t count = 0;
  esft::for_each_buffer(model.parameters, [&](esft::parameter_key, const auto&) { ++count; });
  return count;
}

}  // namespace esft_test
