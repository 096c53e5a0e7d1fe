// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `config_collector`: reads the members of a `config.json` and lists every problem, and every key that nobody read.

#include <esft/io/hf_config.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>

#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft::detail {

/// Reads members of a config and collects what is wrong, instead of stopping at the first problem.
class config_collector {
 public:
  explicit config_collector(json_reader root) : root_(std::move(root)) {}

  std::vector<std::string> problems;
  bool unsupported = false;
  bool incomplete = false;  ///< a key is missing or unreadable: contradictions that follow from it would only confuse

  /// Runs `use` on a member that is there and not null. Returns whether it is.
  template <class Use>
  bool optional(std::string_view key, Use&& use) {
    try {
      known_.insert(std::string(key));
      const auto member = root_.find(key);
      if (!member || member->is_null()) return false;
      use(*member);
    } catch (const input_error& problem) {
      problems.push_back(problem.what());
      incomplete = true;
    }
    return true;
  }
  template <class Use>
  void required(std::string_view key, Use&& use) {
    if (!optional(key, use)) missing(key);
  }
  void missing(std::string_view key) {
    problems.push_back("'/" + std::string(key) + "': is missing");
    incomplete = true;
  }
  bool integer(std::string_view key, index& out) {
    // the range of meaning is validate()'s; this one only keeps the arithmetic safe
    return optional(key, [&](const json_reader& value) { out = value.integer(-1, config_limits::positions); });
  }
  void required_integer(std::string_view key, index& out) {
    if (!integer(key, out)) missing(key);
  }
  bool real(std::string_view key, double& out) {
    return optional(key, [&](const json_reader& value) { out = value.number(-1e300, 1e300); });
  }
  bool boolean(std::string_view key, bool& out) {
    return optional(key, [&](const json_reader& value) { out = value.boolean(); });
  }
  /// A special token: an id, the first of several, or that there is none: null, an empty list, or -1 as some publishers write.
  void token(std::string_view key, std::optional<index>& out) {
    optional(key, [&](const json_reader& value) {
      const bool is_list = value.value().kind() == json_kind::array;
      if (is_list && value.elements().empty()) return;
      const index id = (is_list ? value.elements().front() : value).integer(-1, config_limits::vocabulary);
      if (id != -1) out = id;
    });
  }
  void refuse(std::string_view key, const std::string& why) {
    unsupported = true;
    problems.push_back("'/" + std::string(key) + "': " + why);
  }
  /// Keys that change no number that we compute.
  void ignore(std::initializer_list<std::string_view> keys) {
    for (const std::string_view key : keys) known_.insert(std::string(key));
  }
  /// Refuses every key that was neither read nor ignored: it may change what the model computes.
  void refuse_others() {
    for (const auto& [key, value] : root_.members()) {
      if (known_.contains(key)) continue;
      refuse(key, "is not known for this model_type and may change what the model computes; if it does not, remove it from the file");
    }
  }
  /// The key may be absent, null or `allowed`.
  void only(std::string_view key, const json_value& allowed) {
    optional(key, [&](const json_reader& value) {
      if (value.value() == allowed || same_number(value.value(), allowed)) return;
      std::string text = write_json(value.value(), json_layout::compact);
      refuse(key, printable(text) + " is not supported, only " + write_json(allowed, json_layout::compact));
    });
  }

 private:
  static std::optional<double> number_of(const json_value& value) {
    if (const auto* real = value.get_if<double>()) return *real;
    if (const auto* whole = value.get_if<std::int64_t>()) return static_cast<double>(*whole);
    return std::nullopt;
  }
  /// 0 and 0.0 say the same.
  static bool same_number(const json_value& a, const json_value& b) {
    const std::optional<double> number = number_of(a);
    return number && number == number_of(b);
  }

  json_reader root_;
  std::set<std::string> known_;
};

}  // namespace esft::detail
