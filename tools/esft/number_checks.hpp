// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What numbers an option takes. CLI11's own ranges let NaN through, and its conversion takes -1 for the largest unsigned number and
/// numbers of too many digits for the largest of all.

#include <CLI/App.hpp>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <string>

namespace esft::tool {

/// Numbers for which `holds(double)`; NaN is none. `name` is for the help, `rule` for the message: "must be ...".
template <class Holds>
[[nodiscard]] CLI::Validator numbers_that(const std::string& name, const std::string& rule, Holds holds) {
  const auto problem = [rule, holds](const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    const bool is_number = end != text.c_str() && *end == '\0' && std::isfinite(value);
    if (!is_number || !holds(value)) return "'" + text + "' must be " + rule;
    const bool is_whole = text.find_first_not_of("+-0123456789") == std::string::npos;
    if (is_whole && std::abs(value) >= 0x1p63) return "'" + text + "' is too large";
    return std::string();
  };
  return {problem, name};
}

inline const CLI::Validator positive_number = numbers_that("POSITIVE", "a number above 0", [](double value) { return value > 0; });
inline const CLI::Validator non_negative_number =
    numbers_that("NONNEGATIVE", "0 or a number above it", [](double value) { return value >= 0; });

/// Numbers in [low, high].
[[nodiscard]] inline CLI::Validator number_between(double low, double high) {
  const auto text = [](double value) {
    std::string digits = std::to_string(value);
    digits.erase(digits.find_last_not_of('0') + 1);
    return digits.ends_with('.') ? digits.substr(0, digits.size() - 1) : digits;
  };
  const std::string range = "[" + text(low) + ", " + text(high) + "]";
  return numbers_that("in " + range, "a number in " + range, [low, high](double value) { return value >= low && value <= high; });
}

/// Has every option of all commands refuse NaN and infinities, and those of unsigned numbers a sign and more than 64 bits.
inline void refuse_what_is_no_number(CLI::App& app) {
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) refuse_what_is_no_number(*command);
  const auto finite = [](const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    const bool is_text = end == text.c_str() || *end != '\0';  // the conversion has a message for that
    return is_text || std::isfinite(value) ? std::string() : "'" + text + "' must be a finite number";
  };
  const auto unsigned_64 = [](const std::string& text) {
    errno = 0;
    static_cast<void>(std::strtoull(text.c_str(), nullptr, 10));
    return text.starts_with('-') || errno == ERANGE ? "'" + text + "' must be a whole number from 0 to 2^64 - 1" : std::string();
  };
  for (CLI::Option* option : app.get_options([](CLI::Option*) { return true; })) {
    const std::string type = option->get_type_name();
    if (type.starts_with("FLOAT")) option->check(CLI::Validator(finite, ""));
    if (type.starts_with("UINT")) option->check(CLI::Validator(unsigned_64, ""));
  }
}

}  // namespace esft::tool
