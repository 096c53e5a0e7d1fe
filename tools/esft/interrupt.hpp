// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// SIGINT and SIGTERM ask a run to stop after the current step; a second signal ends the process at once.

#include <csignal>

namespace esft::tool {

/// Set by the handler; read it through `stop_requested`.
inline volatile std::sig_atomic_t stop_flag = 0;
inline void on_stop_signal(int) { stop_flag = 1; }

/// From here on the first signal only sets a flag.
inline void catch_stop_signals() {
  for (const int number : {SIGINT, SIGTERM}) {
    struct sigaction action {};
    action.sa_handler = on_stop_signal;
    action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second signal has its default effect
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, nullptr);
  }
}

/// Whether a signal came.
inline bool stop_requested() { return stop_flag != 0; }

}  // namespace esft::tool
