// SPDX-License-Identifier: Apache-2.0
// Signals, kill -9 and two processes on one directory. Nothing here depends on how fast the machine is.
#include "end_to_end/workspace.hpp"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

namespace end_to_end_interruption_tests {

using end_to_end::content;
using end_to_end::ended;
using end_to_end::process;

class interruption : public end_to_end::workspace {
 protected:
  std::int64_t logged_steps(const std::string& out) const {
    const std::string text = content(at(out + "/metrics.jsonl"));
    return std::count(text.begin(), text.end(), '\n');
  }
  std::int64_t saved_step(const std::string& out) const {
    std::int64_t newest = 0;
    if (!std::filesystem::exists(at(out))) return newest;
    for (const auto& entry : std::filesystem::directory_iterator(at(out))) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("step-") && name.ends_with(".safetensors"))
        newest = std::max(newest, static_cast<std::int64_t>(std::stoll(name.substr(5))));
    }
    return newest;
  }
  /// Waits for something that the process does sooner or later.
  static void wait_for(const process& running, const std::function<bool()>& happened) {
    while (!happened()) {
      ASSERT_TRUE(running.running()) << "the run ended too early";
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  /// The adapter of a run that nobody disturbed.
  std::string undisturbed(std::int64_t steps) const {
    static_cast<void>(succeed(train("undisturbed", std::to_string(steps))));
    std::string bytes = content(at("undisturbed/adapter/adapter.safetensors"));
    EXPECT_FALSE(bytes.empty());
    return bytes;
  }
};

constexpr const char* endless = "1000000000";

TEST_F(interruption, a_signal_saves_and_resume_gives_the_same_bytes) {
  select();
  process first(folder_, train("run", endless));
  wait_for(first, [&] { return logged_steps("run") >= 3; });

  const ended second = run(train("run", "5", {"--resume"}));  // while the first one holds the directory
  EXPECT_EQ(second.code, 7);
  EXPECT_NE(second.err.find("in use by process"), std::string::npos) << second.err;

  first.signal(SIGINT);
  const ended stopped = first.wait();
  EXPECT_EQ(stopped.code, 8) << stopped.err;
  EXPECT_NE(stopped.err.find("--resume"), std::string::npos);
  const std::int64_t steps = saved_step("run");
  EXPECT_EQ(steps, logged_steps("run"));

  EXPECT_EQ(run(train("run", std::to_string(steps + 5))).code, 2);  // not without --resume
  const ended other = run(train("run", std::to_string(steps + 5), {"--resume", "--seed", "9"}));
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("seed = 0"), std::string::npos) << other.err;

  static_cast<void>(succeed(train("run", std::to_string(steps + 5), {"--resume"})));
  EXPECT_EQ(logged_steps("run"), steps + 5);
  EXPECT_TRUE(content(at("run/adapter/adapter.safetensors")) == undisturbed(steps + 5));
}

TEST_F(interruption, terminate_is_a_signal_like_interrupt) {
  select();
  process first(folder_, train("run", endless));
  wait_for(first, [&] { return logged_steps("run") >= 1; });
  first.signal(SIGTERM);
  EXPECT_EQ(first.wait().code, 8);
  EXPECT_GE(saved_step("run"), 1);
}

TEST_F(interruption, kill_loses_at_most_the_steps_since_the_checkpoint) {
  select();
  {
    process first(folder_, train("run", endless, {"--save-every", "2"}));
    wait_for(first, [&] { return saved_step("run") >= 4; });
    first.signal(SIGKILL);
    EXPECT_EQ(first.wait().code, 128 + SIGKILL);
  }
  const std::int64_t steps = saved_step("run") + 3;
  static_cast<void>(succeed(train("run", std::to_string(steps), {"--resume", "--save-every", "2"})));
  EXPECT_EQ(logged_steps("run"), steps);
  EXPECT_TRUE(content(at("run/adapter/adapter.safetensors")) == undisturbed(steps));
}

TEST_F(interruption, resume_without_a_checkpoint_begins) {
  select();
  static_cast<void>(succeed(train("run", "4", {"--resume"})));
  EXPECT_TRUE(content(at("run/adapter/adapter.safetensors")) == undisturbed(4));
  static_cast<void>(succeed(train("run", "4", {"--resume"})));  // a finished run: nothing to do, the adapter is written again
  EXPECT_EQ(logged_steps("run"), 4);
  EXPECT_TRUE(content(at("run/adapter/adapter.safetensors")) == content(at("undisturbed/adapter/adapter.safetensors")));
}

}  // namespace end_to_end_interruption_tests
