// SPDX-License-Identifier: Apache-2.0
#include <esft/io/directory.hpp>
#include <esft/io/file.hpp>
#include <esft/io/run_lock.hpp>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <sys/wait.h>

#include <gtest/gtest.h>

#include "io_test.hpp"

namespace file_tests {

using esft::input_error_code;
using esft::test::expect_input_error;
using esft::test::scratch_directory;
using esft::test::slurp;
using esft::test::spill;

std::size_t entries(const std::filesystem::path& directory) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(directory), {}));
}

TEST(input_file, reads_positions_of_a_regular_file) {
  const scratch_directory scratch;
  spill(scratch / "a", "0123456789");
  const esft::input_file file(scratch / "a");
  std::string part(3, '\0');
  file.read_at(4, std::as_writable_bytes(std::span(part)));
  EXPECT_EQ(part, "456");
  EXPECT_EQ(file.size(), 10U);
  EXPECT_NO_THROW(file.expect_unchanged());
}

TEST(input_file, refuses_what_is_not_a_regular_file) {
  const scratch_directory scratch;
  ASSERT_EQ(::mkfifo((scratch / "fifo").c_str(), 0600), 0);
  expect_input_error(input_error_code::not_regular_file, [&] { esft::input_file{scratch / "fifo"}; }, "fifo");
  expect_input_error(input_error_code::not_regular_file, [&] { esft::input_file{scratch.path()}; });
  expect_input_error(input_error_code::not_regular_file, [&] { esft::input_file{"/dev/zero"}; });
  expect_input_error(input_error_code::cannot_open, [&] { esft::input_file{scratch / "absent"}; }, "absent");
}

TEST(input_file, notices_that_the_file_shrank_or_changed) {
  const scratch_directory scratch;
  spill(scratch / "a", "0123456789");
  const esft::input_file file(scratch / "a");
  std::filesystem::resize_file(scratch / "a", 5);
  std::string all(10, '\0');
  expect_input_error(input_error_code::changed_while_open, [&] { file.read_at(0, std::as_writable_bytes(std::span(all))); }, "a");
  expect_input_error(input_error_code::changed_while_open, [&] { file.expect_unchanged(); });
}

TEST(read_small_file, has_a_limit) {
  const scratch_directory scratch;
  spill(scratch / "a", "0123456789");
  EXPECT_EQ(esft::read_small_file(scratch / "a", 10), "0123456789");
  expect_input_error(input_error_code::too_large, [&] { esft::read_small_file(scratch / "a", 9); }, "10 bytes");
}

TEST(atomic_file_writer, replaces_only_on_commit) {
  const scratch_directory scratch;
  spill(scratch / "a", "old");
  {
    esft::atomic_file_writer writer(scratch / "a");
    writer.write("new content");
    writer.patch(4, "CON");
    EXPECT_EQ(slurp(scratch / "a"), "old");
    writer.commit();
    EXPECT_EQ(slurp(scratch / "a"), "new CONtent");
  }
  {
    esft::atomic_file_writer writer(scratch / "a");
    writer.write("abandoned");
  }
  EXPECT_EQ(slurp(scratch / "a"), "new CONtent");
  EXPECT_EQ(entries(scratch.path()), 1U);
}

TEST(atomic_file_writer, storage_errors_keep_the_old_file_and_leave_nothing) {
  const scratch_directory scratch;
  EXPECT_THROW(esft::write_file_atomically(scratch / "no" / "a", "x"), esft::storage_error);
  spill(scratch / "a", "old");
  std::filesystem::create_directory(scratch / "busy");
  spill(scratch / "busy" / "inside", "");
  EXPECT_THROW(esft::write_file_atomically(scratch / "busy", "x"), esft::storage_error);  // cannot rename over a directory
  EXPECT_EQ(entries(scratch.path()), 2U);

  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  struct ::rlimit limit {};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  const ::rlimit small = {1000, limit.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  int error_number = 0;
  try {
    esft::write_file_atomically(scratch / "a", std::string(5000, 'x'));
  } catch (const esft::storage_error& problem) {
    error_number = problem.error_number();
  }
  ::setrlimit(RLIMIT_FSIZE, &limit);
  static_cast<void>(std::signal(SIGXFSZ, old_handler));
  EXPECT_EQ(error_number, EFBIG);
  EXPECT_EQ(slurp(scratch / "a"), "old");
  EXPECT_EQ(entries(scratch.path()), 2U);
}

TEST(directories, are_made_and_listed_or_the_error_names_them) {
  const scratch_directory scratch;
  esft::make_directory(scratch / "a" / "b");
  esft::make_directory(scratch / "a" / "b");  // is there already
  spill(scratch / "a" / "z", "");
  spill(scratch / "a" / "file", "");
  std::vector<std::string> names;
  for (const auto& entry : esft::entries_of(scratch / "a")) names.push_back(entry.path().filename().string());
  EXPECT_EQ(names, (std::vector<std::string>{"b", "file", "z"}));
  for (const auto& below_a_file : {scratch / "a" / "file", scratch / "a" / "file" / "below"}) {
    try {
      esft::make_directory(below_a_file);
      ADD_FAILURE() << "made";
    } catch (const esft::storage_error& problem) {
      EXPECT_NE(std::string(problem.what()).find("file"), std::string::npos) << problem.what();
    }
    expect_input_error(
        input_error_code::cannot_open, [&] { static_cast<void>(esft::entries_of(below_a_file)); }, "file");
  }
  EXPECT_THROW(esft::atomic_directory(scratch / "a" / "file" / "below" / "it"), esft::storage_error);
  expect_input_error(
      input_error_code::cannot_open, [&] { static_cast<void>(esft::entries_of(scratch / "absent")); }, "absent");
}

TEST(run_lock, admits_one_process_and_is_free_after_a_kill) {
  const scratch_directory scratch;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const ::pid_t child = ::fork();
  if (child == 0) {
    const esft::run_lock held(scratch.path());
    static_cast<void>(!::write(ready[1], "x", 1));
    while (true) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  try {
    const esft::run_lock second(scratch.path());
    ADD_FAILURE() << "two processes hold the lock";
  } catch (const esft::lock_error& refusal) {
    EXPECT_EQ(refusal.holder(), std::to_string(child));
    EXPECT_EQ(refusal.category(), esft::error_category::lock_held);
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_NO_THROW(esft::run_lock{scratch.path()});
}

}  // namespace file_tests
