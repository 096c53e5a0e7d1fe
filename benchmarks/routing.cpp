// SPDX-License-Identifier: Apache-2.0
#include "routing.hpp"

#include <esft/core/rng.hpp>
#include <esft/io/expert_config.hpp>
#include <esft/io/routing_log.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <numeric>
#include <stdexcept>
#include <tuple>

namespace esft::bench {
namespace {

namespace fs = std::filesystem;

/// `intent_11` -> directory of the task, layer.
std::pair<fs::path, layer_index> place_of(const std::string& published) {
  const auto split = published.rfind('_');
  return {fs::path(std::getenv("ESFT_OFFICIAL_DATA")) / published.substr(0, split), layer_index(std::stoi(published.substr(split + 1)))};
}

/// Ids of the log, from its beginning again where it is shorter than the tokens.
std::vector<std::int32_t> replay(const layer_shape& shape, index tokens, const std::string& published) {
  const auto [task, layer] = place_of(published);
  std::vector<std::int32_t> log;
  read_routing_log(task / ("expert_weights_" + std::to_string(layer.value) + ".txt"), layer,
                   {static_cast<int>(shape.experts), static_cast<int>(shape.active)},
                   [&](const routing_record& record) { log.insert(log.end(), record.ids.begin(), record.ids.end()); });
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens * shape.active));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = log[i % log.size()];
  return ids;
}

/// Draws K different experts a token with the given probabilities.
std::vector<std::int32_t> draw(const layer_shape& shape, index tokens, const std::vector<double>& weight) {
  const counter_rng rng(11, rng_stream::test);
  std::vector<std::int32_t> ids;
  std::uint64_t counter = 0;
  for (index t = 0; t < tokens; ++t) {
    std::vector<double> left = weight;
    for (index k = 0; k < shape.active; ++k) {
      double at = rng.uniform(counter++) * std::accumulate(left.begin(), left.end(), 0.0);
      std::size_t e = 0;
      while (e + 1 < left.size() && (at >= left[e] || left[e] == 0)) at -= left[e++];
      while (left[e] == 0) --e;
      left[e] = 0;
      ids.push_back(static_cast<std::int32_t>(e));
    }
  }
  return ids;
}

std::vector<std::int32_t> make_ids(const layer_shape& shape, index tokens, const std::string& routing) {
  if (is_published(routing)) return replay(shape, tokens, routing);
  std::vector<double> weight(static_cast<std::size_t>(shape.experts), 1);
  for (std::size_t e = 0; e < weight.size(); ++e) {
    if (routing == "zipf") weight[e] = 1 / static_cast<double>(e + 1);
    if (routing == "empty" && e % 2 == 1) weight[e] = 0;
  }
  if (routing == "one_hot") {
    weight[0] = 1e9;
  } else if (routing != "uniform" && routing != "zipf" && routing != "empty") {
    throw std::invalid_argument("no routing '" + routing + "'");
  }
  return draw(shape, tokens, weight);
}

}  // namespace

const std::vector<std::string>& published_layers() {
  static const std::vector<std::string> found = [] {
    std::vector<std::string> names;
    const char* const root = std::getenv("ESFT_OFFICIAL_DATA");
    if (root == nullptr) return names;
    std::error_code none;
    for (const auto& task : fs::directory_iterator(root, none)) {
      if (!fs::exists(task.path() / "expert_cfg.json")) continue;
      try {
        for (const auto& [layer, path] : find_routing_logs(task.path())) {
          names.push_back(task.path().filename().string() + "_" + std::to_string(layer.value));
        }
      } catch (const error& fault) {
        std::fprintf(stderr, "%s\n", fault.what());
      }
    }
    std::sort(names.begin(), names.end());
    return names;
  }();
  return found;
}

bool is_published(const std::string& name) {
  return std::find(published_layers().begin(), published_layers().end(), name) != published_layers().end();
}

std::vector<bench_case> all_cases() {
  std::vector<bench_case> cases;
  for (const layer_shape& shape : layer_shapes()) {
    std::vector<std::string> routings = {"uniform", "zipf", "one_hot", "empty"};
    if (shape.published) routings.insert(routings.end(), published_layers().begin(), published_layers().end());
    for (const element type : {element::float32, element::bf16}) {
      if (type == element::float32 && shape.bf16_only) continue;
      for (const auto& routing : routings) {
        std::vector<index> tokens = {64, 171, 512, 1024, 4096};
        if (shape.published && routing == "uniform") tokens = {64, 171, 342, 512, 683, 1024, 1366, 4096, 5462};
        for (const index count : tokens) {
          for (const int threads : {1, 2}) {
            if (threads == 1 && routing != "uniform" && routing != "zipf") continue;
            cases.push_back({&shape, type, count, routing, "none", threads});
          }
        }
      }
    }
  }
  return cases;
}

std::span<const std::int32_t> routed_ids(const layer_shape& shape, index tokens, const std::string& routing) {
  static std::map<std::tuple<std::string, index, std::string>, std::vector<std::int32_t>> made;
  auto& ids = made[{shape.name, tokens, routing}];
  if (ids.empty()) ids = make_ids(shape, tokens, routing);
  return ids;
}

std::vector<std::int32_t> selected_experts(const layer_shape& shape, std::span<const std::int32_t> ids, const std::string& selection) {
  std::vector<std::int32_t> experts;
  if (selection == "none") return experts;
  if (is_published(selection)) {
    const auto [task, layer] = place_of(selection);
    const expert_config config = read_expert_config(task / "expert_cfg.json");
    for (const expert_index e : config.experts.layers.at(layer)) experts.push_back(e.value);
    std::sort(experts.begin(), experts.end());
    return experts;
  }
  experts.resize(static_cast<std::size_t>(shape.experts));
  std::iota(experts.begin(), experts.end(), 0);
  if (selection == "all") return experts;
  if (selection == "p8") {
    std::vector<index> count(experts.size());
    for (const std::int32_t e : ids) ++count[static_cast<std::size_t>(e)];
    std::stable_sort(experts.begin(), experts.end(),
                     [&](auto a, auto b) { return count[static_cast<std::size_t>(a)] > count[static_cast<std::size_t>(b)]; });
    experts.resize(static_cast<std::size_t>(std::max<index>(1, (shape.experts * 8 + 50) / 100)));
    std::sort(experts.begin(), experts.end());
    return experts;
  }
  if (!selection.starts_with("first")) throw std::invalid_argument("no selection '" + selection + "'");
  experts.resize(std::min(experts.size(), static_cast<std::size_t>(std::stoul(selection.substr(5)))));
  return experts;
}

index rows_of(std::span<const std::int32_t> ids, const std::vector<std::int32_t>& experts) {
  return std::count_if(ids.begin(), ids.end(), [&](std::int32_t e) { return std::binary_search(experts.begin(), experts.end(), e); });
}

index experts_in_use(const layer_shape& shape, std::span<const std::int32_t> ids) {
  std::vector<bool> used(static_cast<std::size_t>(shape.experts));
  for (const std::int32_t e : ids) used[static_cast<std::size_t>(e)] = true;
  return std::count(used.begin(), used.end(), true);
}

}  // namespace esft::bench
