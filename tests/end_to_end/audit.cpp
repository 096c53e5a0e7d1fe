// SPDX-License-Identifier: Apache-2.0
// What an adapter moved is ranked; a share of it goes back to the base, and the rest is an adapter like any other.
#include "end_to_end/workspace.hpp"

#include <string>
#include <vector>

namespace end_to_end_audit_tests {

class audit : public end_to_end::workspace {
 protected:
  void SetUp() override {
    workspace::SetUp();
    static_cast<void>(succeed({"score", "--model", "model", "--data", "task.jsonl", "--out", "scores.json"}));
    static_cast<void>(
        succeed({"select", "--scores", "scores.json", "--score", "token", "--policy", "top-k", "--k", "2", "--out", "experts.json"}));
    static_cast<void>(succeed({"train", "--model", "model", "--data", "task.jsonl", "--experts", "experts.json", "--steps", "3", "--lr",
                               "0.01", "--out", "run"}));
  }
};

TEST_F(audit, ranks_every_trained_expert_and_writes_what_is_left) {
  const std::vector<std::string> words{"audit", "--model", "model", "--adapter", "run", "--data", "task.jsonl", "--limit", "0"};
  const std::string table = succeed(words);
  EXPECT_NE(table.find("layer 1 expert "), std::string::npos) << table;
  auto reset = words;
  reset.insert(reset.end(), {"--reset", "0.25", "--out", "less"});
  const std::string printed = succeed(reset);
  EXPECT_NE(printed.find("dimensions are the base's again"), std::string::npos) << printed;
  static_cast<void>(succeed({"verify", "model", "less"}));
  EXPECT_EQ(end_to_end::content(at("less/expert_cfg.json")), end_to_end::content(at("run/adapter/expert_cfg.json")));
  EXPECT_NE(end_to_end::content(at("less/adapter.safetensors")), end_to_end::content(at("run/adapter/adapter.safetensors")));
}

TEST_F(audit, a_reset_needs_a_place_and_a_place_needs_a_reset) {
  EXPECT_EQ(run({"audit", "--model", "model", "--adapter", "run", "--data", "task.jsonl", "--reset", "0.1"}).code, 2);
  EXPECT_EQ(run({"audit", "--model", "model", "--adapter", "run", "--data", "task.jsonl", "--out", "x"}).code, 2);
}

}  // namespace end_to_end_audit_tests
