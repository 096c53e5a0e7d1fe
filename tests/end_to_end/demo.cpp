// SPDX-License-Identifier: Apache-2.0
// `esft demo` and `esft report`: the front page's command on a tiny model, and what both say and write.
#include "end_to_end/workspace.hpp"

#include <esft/io/json_reader.hpp>

#include <set>
#include <string>

namespace end_to_end_demo_tests {

using end_to_end::content;
using end_to_end::ended;

class demo : public end_to_end::workspace {
 protected:
  void SetUp() override {
    workspace::SetUp();
    write_demo_data("data");
  }
  [[nodiscard]] std::vector<std::string> words(const std::string& more) const {
    std::vector<std::string> all = workspace::demo("data", "out");
    all.push_back(more);
    return all;
  }
};

TEST_F(demo, compares_every_arm_and_proves_what_changed) {
  const auto value = json(succeed(words("--json")));
  const esft::json_reader root(value, "output");
  EXPECT_TRUE(root.at("proved").boolean());
  std::multiset<std::string> arms;
  for (const auto& arm : root.at("arms").elements()) {
    arms.insert(arm.at("arm").string());
    EXPECT_GT(arm.at("trained_parameters").integer(0, 1 << 30), 0);
    EXPECT_NE(arm.at("task_loss").number(0, 100), root.at("base_loss").number(0, 100));
  }
  EXPECT_EQ(arms, (std::multiset<std::string>{"esft-token", "esft-gate", "random", "full", "lora"}));
  for (const char* key : {"report", "adapter", "metrics"}) EXPECT_TRUE(std::filesystem::exists(at(root.at(key).string()))) << key;
  EXPECT_NE(content(at("out/report.html")).find("esft-token"), std::string::npos);
  EXPECT_NE(succeed({"verify", "model", "out/adapter", "out/merged"}), "");
}

TEST_F(demo, prints_a_table_and_quietly_nothing) {
  const ended quiet = run(words("--quiet"));
  EXPECT_EQ(quiet.code, 0) << quiet.err;
  EXPECT_EQ(quiet.out, "");
  EXPECT_TRUE(std::filesystem::exists(at("out/report.html")));
  const std::string printed = succeed(workspace::demo("data", "again"));
  for (const char* part : {"1 score", "2 select", "3 train", "4 verify", "\nbase ", "\nesft-token ", "\nlora ", "again/report.html"})
    EXPECT_NE(printed.find(part), std::string::npos) << part << " in " << printed;
}

TEST_F(demo, a_report_shows_what_it_was_given) {
  select();
  static_cast<void>(succeed(train("run", "2", {"--quiet"})));
  const std::vector<std::string> all{
      "report",    "--scores",         "scores.json", "--experts", "experts.json", "--metrics", "run/metrics.jsonl",
      "--receipt", "run/receipt.json", "--title",     "A title",   "--out",        "page.html"};
  EXPECT_EQ(succeed(all), "report  page.html\n");
  const std::string page = content(at("page.html"));
  for (const char* part : {"A title", "scores.json", "run/receipt.json", "<svg"}) EXPECT_NE(page.find(part), std::string::npos) << part;
  const ended nothing = run({"report", "--out", "empty.html"});
  EXPECT_EQ(nothing.code, 2);
  EXPECT_NE(nothing.err.find("nothing to report"), std::string::npos) << nothing.err;
  EXPECT_FALSE(std::filesystem::exists(at("empty.html")));
}

}  // namespace end_to_end_demo_tests
