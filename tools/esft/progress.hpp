// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A progress bar with rate and time left on a terminal; now and then a plain line elsewhere. Always on stderr.

#include "console.hpp"
#include "format.hpp"

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include <unistd.h>

namespace esft::tool {

/// Shows how far a long piece of work is. Does nothing when the tool is quiet.
class progress {
 public:
  /// @param unit what is counted, for the rate: "steps", "batches"
  progress(std::string label, std::int64_t total, std::string unit, std::int64_t done = 0)
      : label_(std::move(label)), unit_(std::move(unit)), total_(total), begin_(done), last_shown_(clock::now()), start_(last_shown_) {}
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  ~progress() { clear(); }

  /// Reports that `done` of the total are done; `detail` is shown beside it.
  void update(std::int64_t done, const std::string& detail = {}) {
    if (out().quiet) return;
    const auto now = clock::now();
    const double since = std::chrono::duration<double>(now - last_shown_).count();
    if (since < (on_terminal_ ? 0.1 : 10.0) && (done < total_ || !on_terminal_)) return;
    last_shown_ = now;
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    const double rate = elapsed > 0 ? static_cast<double>(done - begin_) / elapsed : 0;
    std::string text = label_ + " " + std::to_string(done) + "/" + std::to_string(total_);
    if (!detail.empty()) text += "  " + detail;
    if (rate > 0) {
      text += "  " + significant(rate, 3) + " " + unit_ + "/s";
      if (done < total_) text += "  ETA " + duration_text(static_cast<double>(total_ - done) / rate);
    }
    if (on_terminal_) {
      std::fprintf(stderr, "\r\x1b[2K%s %s", bar(done).c_str(), text.c_str());
    } else {
      std::fprintf(stderr, "%s\n", text.c_str());
    }
    std::fflush(stderr);
    drawn_ = true;
  }

  /// Removes the bar, so that ordinary lines may follow.
  void clear() {
    if (drawn_ && on_terminal_) {
      std::fprintf(stderr, "\r\x1b[2K");
      std::fflush(stderr);
    }
    drawn_ = false;
  }

 private:
  using clock = std::chrono::steady_clock;

  [[nodiscard]] std::string bar(std::int64_t done) const {
    constexpr std::int64_t cells = 24;
    const std::int64_t full = total_ > 0 ? cells * done / total_ : 0;
    std::string text;
    for (std::int64_t cell = 0; cell < cells; ++cell) text += cell < full ? "━" : "·";
    return text;
  }

  std::string label_;
  std::string unit_;
  std::int64_t total_;
  std::int64_t begin_;
  clock::time_point last_shown_;
  clock::time_point start_;
  bool on_terminal_ = ::isatty(STDERR_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
  bool drawn_ = false;
};

}  // namespace esft::tool
