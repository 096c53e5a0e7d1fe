// SPDX-License-Identifier: Apache-2.0
#include <esft/io/training_state.hpp>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "io_test.hpp"

namespace training_state_tests {

namespace fs = std::filesystem;
using esft::input_error_code;
using esft::test::expect_input_error;
using esft::test::scratch_directory;
using esft::test::slurp;
using esft::test::spill;

void save(const fs::path& directory, std::int64_t step, std::size_t count = 1000) {
  const std::vector<std::int64_t> values(count, step);
  const std::vector<float> moments(count, static_cast<float>(step) / 2);
  const std::vector<esft::tensor_source> tensors = {
      esft::memory_source("cursor", esft::dtype::int64, {static_cast<esft::index>(count)}, std::as_bytes(std::span(values))),
      esft::memory_source("moments", esft::dtype::float32, {static_cast<esft::index>(count)}, std::as_bytes(std::span(moments)))};
  esft::save_training_state(directory, step, tensors, {{"base", "abc"}});
}

/// The step that every element of the loaded state agrees on.
std::int64_t loaded_step(const esft::training_state& state) {
  std::vector<std::int64_t> values(state.file.at("cursor").element_count());
  state.file.read(state.file.at("cursor"), std::as_writable_bytes(std::span(values)));
  std::vector<float> moments(state.file.at("moments").element_count());
  state.file.read_floats(state.file.at("moments"), moments);
  for (const std::int64_t value : values) EXPECT_EQ(value, state.step);
  for (const float moment : moments) EXPECT_EQ(moment, static_cast<float>(state.step) / 2);
  return state.step;
}

TEST(training_state, loads_the_newest_and_keeps_two) {
  const scratch_directory scratch;
  EXPECT_FALSE(esft::load_latest_training_state(scratch.path()).has_value());
  for (const std::int64_t step : {9, 10, 100}) save(scratch.path(), step);
  const auto state = esft::load_latest_training_state(scratch.path());
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(loaded_step(*state), 100) << "numerical order, not alphabetical";
  EXPECT_EQ(state->metadata, (std::map<std::string, std::string>{{"base", "abc"}}));
  EXPECT_TRUE(state->skipped.empty());
  EXPECT_EQ(esft::detail::saved_steps(scratch.path()), (std::vector<std::int64_t>{100, 10}));
}

TEST(training_state, falls_back_to_the_last_good_one_and_says_so) {
  const scratch_directory scratch;
  save(scratch.path(), 1);
  save(scratch.path(), 2);
  const std::string good = slurp(scratch / "step-2.safetensors");
  for (const std::size_t length : {std::size_t{0}, std::size_t{7}, good.size() / 2, good.size() - 1}) {
    spill(scratch / "step-2.safetensors", good.substr(0, length));
    const auto state = esft::load_latest_training_state(scratch.path());
    ASSERT_TRUE(state.has_value());
    EXPECT_EQ(loaded_step(*state), 1);
    ASSERT_EQ(state->skipped.size(), 1U);
    EXPECT_NE(state->skipped[0].find("step-2"), std::string::npos);
  }
  std::string flipped = good;
  flipped[good.size() - 3] = static_cast<char>(flipped[good.size() - 3] ^ 4);
  spill(scratch / "step-2.safetensors", flipped);
  EXPECT_EQ(esft::load_latest_training_state(scratch.path())->step, 1);
  spill(scratch / "step-1.safetensors", "");
  expect_input_error(input_error_code::nothing_to_load, [&] { esft::load_latest_training_state(scratch.path()); }, "step-2");
  spill(scratch / "step-2.safetensors", good);
  EXPECT_EQ(esft::load_latest_training_state(scratch.path())->step, 2);
}

TEST(training_state, a_damaged_newer_state_does_not_push_out_a_good_one) {
  const scratch_directory scratch;
  for (const std::int64_t step : {80, 90}) save(scratch.path(), step);
  spill(scratch / "step-100.safetensors", "damaged");
  save(scratch.path(), 95);
  EXPECT_EQ(esft::detail::saved_steps(scratch.path()), (std::vector<std::int64_t>{100, 95, 90}));
  EXPECT_EQ(loaded_step(*esft::load_latest_training_state(scratch.path())), 95);
}

TEST(training_state, a_newer_format_is_refused_by_name) {
  const scratch_directory scratch;
  esft::write_safetensors(scratch / "step-3.safetensors", {}, {{"esft.format_version", "2"}}, esft::self_digest::in_metadata);
  expect_input_error(
      input_error_code::unsupported_version, [&] { esft::detail::open_training_state(scratch / "step-3.safetensors", 3); }, "'2'");
  expect_input_error(input_error_code::nothing_to_load, [&] { esft::load_latest_training_state(scratch.path()); }, "'2'");
}

TEST(training_state, a_failed_save_keeps_the_old_states) {
  const scratch_directory scratch;
  save(scratch.path(), 1);
  const std::vector<esft::tensor_source> failing = {{"x", esft::dtype::float32, {4}, [](const esft::byte_sink& sink) {
    sink(std::vector<std::byte>(8));
    throw esft::storage_error("read", "x", EIO);
  }}};
  EXPECT_THROW(esft::save_training_state(scratch.path(), 2, failing, {}), esft::storage_error);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 1);
  EXPECT_EQ(loaded_step(*esft::load_latest_training_state(scratch.path())), 1);
}

std::vector<fs::path> temporaries(const fs::path& directory) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().filename().string().find(".tmp-") != std::string::npos) found.push_back(entry.path());
  }
  return found;
}

// A child saves as fast as it can and is killed: every other time inside a save, else at any moment. What it leaves must load.
TEST(training_state, kill_9_during_a_save_leaves_a_loadable_state) {
  const scratch_directory scratch;
  std::int64_t step = 0;
  save(scratch.path(), step, 20'000);
  int mid_save = 0;
  for (int kill = 0; kill < 30; ++kill) {
    const ::pid_t child = ::fork();
    if (child == 0) {
      for (std::int64_t next = step + 1;; ++next) save(scratch.path(), next, 20'000);
    }
    const bool inside = kill % 2 == 0;
    for (int poll = 0; inside && temporaries(scratch.path()).empty() && poll < 1'000'000; ++poll) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(inside ? 100 * kill : 1733 * kill));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    mid_save += temporaries(scratch.path()).empty() ? 0 : 1;
    const auto state = esft::load_latest_training_state(scratch.path());
    ASSERT_TRUE(state.has_value());
    EXPECT_GE(loaded_step(*state), step) << "a saved step is never lost";
    EXPECT_TRUE(state->skipped.empty());
    step = state->step;
    if (kill + 1 < 30) {
      for (const fs::path& leftover : temporaries(scratch.path())) fs::remove(leftover);  // else the next kill would not know its own
    }
  }
  spill(scratch / "step-7.safetensors.tmp-1-1", "left by a killed process");
  EXPECT_GT(mid_save, 0) << "no kill hit a save: the test proves nothing";
  save(scratch.path(), step + 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 2) << "leftovers of killed processes are gone";
}

}  // namespace training_state_tests
