// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Rows of the table that gpu.sh writes: what was measured beside the floor that it must reach, and whether it does.

#include <cstdio>
#include <string>

namespace esft::bench {

enum class floor_side { none, at_least, at_most };

/// What is demanded of a figure.
struct floor_of {
  floor_side side = floor_side::none;
  double bound = 0;
  std::string unit = {};  ///< the figure's own
};

/// Prints rows at once, since what follows may fail, and remembers whether a floor was missed.
class floor_table {
 public:
  static constexpr int missed_exit_code = 3;

  /// `where` false: the figure is of another size than the one that the floor is for.
  explicit floor_table(bool where = true) : where_(where) {}

  void row(const std::string& what, const std::string& value, const std::string& note, double figure, const floor_of& floor) {
    std::printf("%s\n", text(what, value, note, figure, floor).c_str());
    std::fflush(stdout);
  }
  /// | what | value | note | floor | met |. A figure that is no number meets nothing.
  [[nodiscard]] std::string text(const std::string& what, const std::string& value, const std::string& note, double figure,
                                 const floor_of& floor) {
    std::string cells = "| " + what + " | " + value + " | " + note + " | ";
    if (!where_ || floor.side == floor_side::none) return cells + "| |";
    const bool least = floor.side == floor_side::at_least;
    const bool met = least ? figure >= floor.bound : figure <= floor.bound;
    missed_ = missed_ || !met;
    char bound[64];
    std::snprintf(bound, sizeof(bound), "%s %.4g %s", least ? ">=" : "<=", floor.bound, floor.unit.c_str());
    return cells + bound + (met ? " | yes |" : " | **no** |");
  }
  [[nodiscard]] int exit_code() const noexcept { return missed_ ? missed_exit_code : 0; }

 private:
  bool where_;
  bool missed_ = false;
};

}  // namespace esft::bench
