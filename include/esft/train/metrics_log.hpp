// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `metrics_log`: one line of JSON a training step; a resumed run drops the lines of steps that it does again.

#include <esft/core/step_report.hpp>
#include <esft/io/jsonl.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>

namespace esft {

/// A line of the log. A number that is not finite is left out, as JSON has none.
[[nodiscard]] inline json_value metrics_line(const step_report& report) {
  json_value line = json_object();
  const auto number = [&](const char* key, double value) {
    if (std::isfinite(value)) line.add(key, value);
  };
  line.add("step", report.step);
  number("loss", report.loss);
  number("gradient_norm", report.gradient_norm);
  number("learning_rate", report.learning_rate);
  if (report.balance_loss != 0) number("balance_loss", report.balance_loss);
  line.add("tokens", report.tokens).add("labelled", report.labelled).add("skipped", report.skipped);
  number("seconds", report.seconds);
  return line;
}

/// The file `metrics.jsonl` of a run directory.
class metrics_log {
 public:
  /// Keeps the lines up to `kept_steps` and appends from there. @throws storage_error, input_error for a log that is not one
  metrics_log(const std::filesystem::path& path, std::int64_t kept_steps) : writer_(keep(path, kept_steps)) {}

  /// @throws storage_error
  void write(const step_report& report) { writer_.write(metrics_line(report)); }

 private:
  static std::filesystem::path keep(const std::filesystem::path& path, std::int64_t kept_steps) {
    if (!std::filesystem::exists(path)) return path;
    { const jsonl_writer repaired(path); }  // cuts off a line that a killed process did not finish
    std::string kept;
    read_jsonl(path, [&](const json_reader& line) {
      const auto step = line.find("step");
      if (step && step->integer(0, std::numeric_limits<std::int64_t>::max()) > kept_steps) return;
      if (step || kept_steps > 0) kept += write_json(line.value(), json_layout::compact) + "\n";
    });
    write_file_atomically(path, kept);
    return path;
  }

  jsonl_writer writer_;
};

}  // namespace esft
