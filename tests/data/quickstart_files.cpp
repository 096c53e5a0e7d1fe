// SPDX-License-Identifier: Apache-2.0
// The committed task files: no prompt of a test occurs in its training file, and lines are what the loaders expect.
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace quickstart_files_tests {

std::vector<std::string> lines_of(const std::string& name) {
  std::ifstream file(std::string(ESFT_TEST_SOURCE_DIR) + "/examples/quickstart/data/" + name);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

class task_files : public testing::TestWithParam<const char*> {};

TEST_P(task_files, test_prompts_are_not_trained_on) {
  const auto prompt = [](const std::string& line) { return line.substr(0, line.find("\",\"completion\":\"")); };
  std::set<std::string> trained;
  for (const auto& line : lines_of(std::string(GetParam()) + ".train.jsonl")) {
    ASSERT_EQ(line.rfind("{\"prompt\":\"", 0), 0U);
    ASSERT_NE(line.find("\",\"completion\":\""), std::string::npos);
    trained.insert(prompt(line));
  }
  EXPECT_GT(trained.size(), 1000U);
  const auto tests = lines_of(std::string(GetParam()) + ".test.jsonl");
  EXPECT_EQ(tests.size(), 200U);
  for (const auto& line : tests) {
    EXPECT_LE(line.size(), 320U);
    EXPECT_FALSE(trained.contains(prompt(line))) << line;
  }
}

INSTANTIATE_TEST_SUITE_P(quickstart, task_files, testing::Values("arithmetic_prefix", "package_json", "licence_id"));

TEST(probe_files, hold_text_of_every_domain) {
  for (const char* domain : {"scripture_en", "scripture_es", "python", "licences", "packages", "arithmetic"}) {
    std::size_t bytes = 0;
    for (const auto& line : lines_of(std::string("probe.") + domain + ".jsonl")) {
      EXPECT_EQ(line.rfind("{\"text\":\"", 0), 0U) << domain;
      bytes += line.size();
    }
    EXPECT_GE(bytes, 16000U) << domain;
    EXPECT_LE(bytes, 26000U) << domain;
  }
}

}  // namespace quickstart_files_tests
