// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Official routing logs: a directory of `expert_weights_<layer>.txt`, read and written as a stream of `routing_record`.

#include <esft/core/contract.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/io/directory.hpp>
#include <esft/io/file.hpp>
#include <esft/io/hf_config.hpp>
#include <esft/io/line_reader.hpp>

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace esft {

/// What the logs do not say themselves.
struct routing_log_options {
  int experts = 64;  ///< E
  int active = 6;    ///< K
};

namespace detail {

inline constexpr std::string_view routing_log_prefix = "expert_weights_";

/// Numbers separated by single tabs. @throws input_error `bad_record`
template <class T>
void parse_tab_separated(std::string_view text, const input_place& place, std::vector<T>& out) {
  out.clear();
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  while (at != end) {
    T value{};
    const auto [next, failure] = std::from_chars(at, end, value);
    if (failure != std::errc{} || (next != end && *next != '\t') || next + 1 == end) {
      throw input_error(input_error_code::bad_record, place,
                        "number " + std::to_string(out.size() + 1) + " is malformed: numbers separated by single tabs are expected");
    }
    out.push_back(value);
    at = next == end ? end : next + 1;
  }
}

/// One line of a log: T*K ids, two tabs, T*K weights.
inline void parse_routing_line(std::string_view line, const input_place& place, const routing_log_options& options,
                               std::vector<std::int32_t>& ids, std::vector<float>& weights) {
  const std::size_t gap = line.find("\t\t");
  if (gap == std::string_view::npos)
    throw input_error(input_error_code::bad_record, place, "two tabs between expert ids and weights are missing");
  parse_tab_separated(line.substr(0, gap), place, ids);
  parse_tab_separated(line.substr(gap + 2), place, weights);
  const auto active = static_cast<std::size_t>(options.active);
  if (ids.size() != weights.size() || ids.empty() || ids.size() % active != 0) {
    throw input_error(input_error_code::bad_record, place,
                      std::to_string(ids.size()) + " expert ids and " + std::to_string(weights.size()) +
                          " weights, must be equal multiples of " + std::to_string(active),
                      "check the number of active experts per token");
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= options.experts) {
      throw input_error(input_error_code::out_of_range, place,
                        "expert id " + std::to_string(ids[i]) + " of " + std::to_string(options.experts) + " experts",
                        "check the number of experts");
    }
    if (!std::isfinite(weights[i]) || weights[i] < 0)
      throw input_error(input_error_code::out_of_range, place, "a weight that is negative or not finite");
    for (std::size_t j = i - i % active; j < i; ++j) {
      if (ids[j] == ids[i])
        throw input_error(input_error_code::bad_record, place, "a token goes to expert " + std::to_string(ids[i]) + " twice");
    }
  }
}

}  // namespace detail

/// Log files of a directory by layer. @throws input_error `nothing_to_load`
inline std::map<layer_index, std::filesystem::path> find_routing_logs(const std::filesystem::path& directory) {
  std::map<layer_index, std::filesystem::path> logs;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(directory, failure)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(detail::routing_log_prefix) || entry.path().extension() != ".txt") continue;
    const std::string number = entry.path().stem().string().substr(detail::routing_log_prefix.size());
    std::int32_t layer = -1;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), layer);
    const bool is_index = error == std::errc{} && std::to_string(layer) == number && layer >= 0 && layer < config_limits::layers;
    if (!is_index) throw input_error(input_error_code::bad_record, {entry.path().string(), {}, {}}, "the file name carries no layer index");
    logs.emplace(layer_index(layer), entry.path());
  }
  if (logs.empty()) {
    throw input_error(input_error_code::nothing_to_load, {directory.string(), {}, {}},
                      "no file " + std::string(detail::routing_log_prefix) + "<layer>.txt", "give the directory of the routing logs");
  }
  return logs;
}

/// Reads one log; calls `visit(const routing_record&)` for every line. A line is one forward pass over one sample.
/// @cost one line in memory  @throws input_error
template <class Visit>
void read_routing_log(const std::filesystem::path& path, layer_index layer, const routing_log_options& options, Visit&& visit) {
  ESFT_EXPECTS(options.active >= 1 && options.active <= options.experts, "1 <= K <= E");
  line_reader lines(path);
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
  while (lines.next()) {
    if (lines.line().empty()) continue;
    detail::parse_routing_line(lines.line(), lines.place(), options, ids, weights);
    visit(routing_record{layer, options.experts, options.active, ids, weights, {}});
  }
}

/// Reads all logs of a directory, layer by layer in numerical order. @throws input_error
template <class Visit>
void read_routing_logs(const std::filesystem::path& directory, const routing_log_options& options, Visit&& visit) {
  for (const auto& [layer, path] : find_routing_logs(directory)) read_routing_log(path, layer, options, visit);
}

/// Writes logs: a line for each sample of each record, padding left out. Weights are written in the shortest form that reads back as the
/// same float, where the official collection script keeps four decimals: what is summed from the logs is what was summed before.
class routing_log_writer {
 public:
  /// @throws usage_error when `directory` holds anything, storage_error
  explicit routing_log_writer(const std::filesystem::path& directory) : output_(directory) {}

  /// @throws usage_error for a slot without an expert, which the format cannot say; storage_error
  void observe(const routing_record& record) {
    const auto active = static_cast<std::size_t>(record.active);
    const std::size_t rows = record.ids.size() / active;
    const auto sample = [&](std::size_t row) { return record.sample.empty() ? 0 : record.sample[row]; };
    for (std::size_t begin = 0; begin < rows;) {
      std::size_t end = begin + 1;
      while (end < rows && sample(end) == sample(begin)) ++end;
      if (sample(begin) >= 0) write_line(record, begin * active, end * active);
      begin = end;
    }
  }

  /// Puts the directory in place. @throws storage_error
  void commit() {
    for (auto& [layer, file] : files_) file.commit();
    output_.commit();
  }

 private:
  void write_line(const routing_record& record, std::size_t begin, std::size_t end) {
    line_.clear();
    for (std::size_t i = begin; i < end; ++i) {
      if (record.ids[i] == no_expert) {
        throw usage_error("layer " + std::to_string(record.layer.value) +
                          " leaves a token's slot without an expert, which routing logs cannot say: score without writing a log");
      }
      append(record.ids[i], i + 1 == end ? "\t\t" : "\t");
    }
    for (std::size_t i = begin; i < end; ++i) append(record.weights[i], i + 1 == end ? "\n" : "\t");
    file_of(record.layer).write(line_);
  }
  template <class T>
  void append(T value, std::string_view behind) {
    std::array<char, 32> text;
    const auto [last, problem] = std::to_chars(text.data(), text.data() + text.size(), value);
    ESFT_EXPECTS(problem == std::errc{}, "32 characters hold every float and every id");
    line_.append(text.data(), last).append(behind);
  }
  atomic_file_writer& file_of(layer_index layer) {
    const std::string name = std::string(detail::routing_log_prefix) + std::to_string(layer.value) + ".txt";
    return files_.try_emplace(layer, output_.path() / name).first->second;
  }

  atomic_directory output_;
  std::map<layer_index, atomic_file_writer> files_;
  std::string line_;
};

}  // namespace esft
