// SPDX-License-Identifier: Apache-2.0
// The table of docs/exit_codes.md, row by row, and messages that name what is wrong.
#include "end_to_end/workspace.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace end_to_end_exit_codes_tests {

using end_to_end::content;
using end_to_end::ended;
using end_to_end::process;

class exit_codes : public end_to_end::workspace {};

TEST_F(exit_codes, ok) {
  EXPECT_EQ(run({"--help"}).code, 0);
  EXPECT_EQ(run({"train", "--help"}).code, 0);
  EXPECT_EQ(run({"--version"}).out, std::string("0.1.0\n"));
  for (const char* family : {"routers", "scorers", "policies", "plans", "backends", "schedules", "tokenizers", "chat-templates"}) {
    EXPECT_NE(succeed({"list", family}), "") << family;
  }
  EXPECT_NE(succeed({"inspect", "model", "--tensors"}).find("model.layers.1.mlp.experts.5.up_proj.weight"), std::string::npos);
}

TEST_F(exit_codes, usage) {
  const auto refused = [&](const std::vector<std::string>& words, const std::string& named) {
    const ended result = run(words);
    EXPECT_EQ(result.code, 2) << named;
    EXPECT_NE(result.err.find(named), std::string::npos) << result.err;
  };
  refused({}, "subcommand");
  refused({"fly"}, "'fly' is no subcommand");
  refused({"train"}, "--model");
  refused({"list", "routes"}, "routes");
  const auto eval = [](const std::string& rows) {
    return std::vector<std::string>{"eval", "--model", "model", "--data", "task.jsonl", "--batch-rows", rows};
  };
  refused(eval("-1"), "--batch-rows");
  EXPECT_EQ(run(eval("1")).code, 0);
  select();
  refused(train("run", "-3"), "--steps");
  EXPECT_EQ(run(train("run", "3")).code, 0);
}

TEST_F(exit_codes, a_gpu_backend_without_a_gpu_says_so) {
  // the twin, on the CPU
  EXPECT_EQ(run({"eval", "--backend", "eigen", "--no-deterministic", "--model", "model", "--data", "task.jsonl"}).code, 0);
  if (succeed({"list", "backends"}).find("cuda") == std::string::npos) GTEST_SKIP() << "SKIP: this build has no GPU backend";
  if (succeed({"doctor"}).find("no device") == std::string::npos) GTEST_SKIP() << "SKIP: this machine has a GPU";
  const ended refused = run({"eval", "--backend", "cuda", "--model", "model", "--data", "task.jsonl"});
  EXPECT_EQ(refused.code, 6);
  EXPECT_NE(refused.err.find("cuda: no device"), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("--backend eigen"), std::string::npos) << refused.err;
}

TEST_F(exit_codes, choices_of_a_gpu_are_refused_where_they_choose_nothing) {
  const auto refused = [&](std::vector<std::string> extra, int code, const std::string& named) {
    std::vector<std::string> command = train("run", "1");
    command.insert(command.end(), extra.begin(), extra.end());
    const ended result = run(command);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_NE(result.err.find(named), std::string::npos) << result.err;
  };
  refused({"--backend", "eigen", "--grouped", "device"}, 2, "leave it out");
  refused({"--grouped", "loop"}, 2, "--grouped");
  refused({"--backend", "eigen", "--record"}, 2, "--backend cuda");
  refused({"--backend", "cuda", "--record", "--grouped", "batched"}, 2, "--grouped device");
  if (succeed({"list", "backends"}).find("cuda") == std::string::npos) GTEST_SKIP() << "SKIP: this build has no GPU backend";
  if (succeed({"doctor"}).find("no device") == std::string::npos) GTEST_SKIP() << "SKIP: this machine has a GPU";
  refused({"--backend", "cuda", "--record"}, 6, "cuda: no device");
  refused({"--backend", "cuda", "--grouped", "batched"}, 6, "cuda: no device");
}

TEST_F(exit_codes, a_model_larger_than_memory_is_refused_with_its_plan) {
  EXPECT_EQ(run({"eval", "--model", "model", "--data", "task.jsonl", "--memory", "1GiB"}).code, 0);
  const ended refused = run({"eval", "--model", "model", "--data", "task.jsonl", "--memory", "20KiB"});
  EXPECT_EQ(refused.code, 6);
  for (const char* part : {"--memory allows 20.0 KiB", "layer", "embedding, norm, head", "\n2 ", "\nall "}) {
    EXPECT_NE(refused.err.find(part), std::string::npos) << part << " in " << refused.err;
  }
}

TEST_F(exit_codes, a_plan_that_matches_nothing_stops_before_training) {
  const auto refused = [&](const std::string& named) {
    const ended result = run(train("run", "2"));
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_NE(result.err.find(named), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(at("run/adapter")));
    EXPECT_FALSE(std::filesystem::exists(at("run/metrics.jsonl")));
  };
  write_experts("experts.json", {{0, {1}}, {1, {1}}, {2, {1}}});
  refused("layer 0 is selected but has no routed experts");
  write_experts("experts.json", {{1, {1}}});
  refused("layer 2 routes but is missing");
  write_experts("experts.json", {{1, {1}}, {2, {6}}});
  refused("expert 6");
  write_experts("experts.json", {{1, {}}, {2, {}}});
  refused("trains nothing");
  write_experts("experts.json", {{1, {}}, {2, {3}}});  // the twin
  EXPECT_EQ(run(train("run", "2")).code, 0);
}

TEST_F(exit_codes, bad_input) {
  const ended absent = run({"inspect", "nowhere"});
  EXPECT_EQ(absent.code, 3);
  EXPECT_NE(absent.err.find("nowhere"), std::string::npos) << absent.err;
  std::ofstream(at("broken.jsonl")) << "{\"prompt\":\"1\",\"completion\":\"2\"}\n{\"prompt\":\"1\",\n";
  const ended broken = run({"eval", "--model", "model", "--data", "broken.jsonl"});
  EXPECT_EQ(broken.code, 3);
  EXPECT_NE(broken.err.find("broken.jsonl:2"), std::string::npos) << broken.err;
  std::filesystem::resize_file(at("model/model.safetensors"), std::filesystem::file_size(at("model/model.safetensors")) - 1);
  const ended truncated = run({"eval", "--model", "model", "--data", "task.jsonl"});
  EXPECT_EQ(truncated.code, 3);
  EXPECT_NE(truncated.err.find("model.safetensors"), std::string::npos) << truncated.err;
}

TEST_F(exit_codes, storage) {
  select();
  const ended full = process(folder_, train("run", "2"), 4096).wait();  // files beyond 4 KiB fail like a full disk
  EXPECT_EQ(full.code, 4) << full.err;
  EXPECT_NE(full.err.find("run/step-2.safetensors"), std::string::npos) << full.err;
  EXPECT_EQ(run(train("run", "2", {"--resume"})).code, 0);  // with room, the same command works
}

TEST_F(exit_codes, an_output_that_cannot_be_made_is_named_and_no_bug) {
  select();
  write_demo_data("data");
  std::ofstream(at("study.toml")) << R"(model = "model"
data = "data"
tasks = ["licence_id"]
rates = [0.01]
steps = 2
rows = 4
length = 24

[[arm]]
name = "token"
scorer = "token"
policy = "top-p"
p = 0.3
)";
  ASSERT_EQ(run(train("run", "2")).code, 0);
  std::ofstream(at("file")) << "no folder can be below this";  // permissions would not bind a test that runs as root
  const std::vector<std::vector<std::string>> writing{
      train("OUT", "2"),
      demo("data", "OUT"),
      {"study", "study.toml", "--out", "OUT"},
      {"merge", "--model", "model", "--adapter", "run", "--out", "OUT"},
      {"select", "--scores", "scores.json", "--out", "OUT"},
  };
  for (std::vector<std::string> words : writing) {
    const auto out = std::find(words.begin(), words.end(), "OUT");
    *out = "file/new";
    const ended refused = run(words);
    EXPECT_EQ(refused.code, 4) << words.front() << ": " << refused.err;
    EXPECT_NE(refused.err.find("file"), std::string::npos) << refused.err;
    EXPECT_EQ(refused.err.find("report it"), std::string::npos) << refused.err;
    *out = words.front() + "_new";  // the twin
    EXPECT_EQ(run(words).code, 0) << words.front();
  }
  const ended unlooked = run({"inspect", std::string(300, 'x')});  // a name that no file system takes
  EXPECT_EQ(unlooked.code, 4) << unlooked.err;
  EXPECT_NE(unlooked.err.find("xxx"), std::string::npos) << unlooked.err;
  EXPECT_EQ(unlooked.err.find("report it"), std::string::npos) << unlooked.err;
}

TEST_F(exit_codes, numbers_that_mean_nothing_are_refused_by_their_option) {
  select();
  const auto refused = [&](const std::string& option, const std::string& value, const std::string& rule) {
    const ended result = run(train("run", "2", {option, value}));
    EXPECT_EQ(result.code, 2) << option << ' ' << value << ": " << result.err;
    EXPECT_NE(result.err.find(rule), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(at("run/adapter")));
  };
  for (const char* option : {"--lr", "--clip", "--weight-decay"}) {
    for (const std::string value : {"nan", "inf", "-1", "much"}) refused(option, value, "'" + value + "' must be 0 or a number above it");
  }
  refused("--final-factor", "nan", "must be a number in [0, 1]");
  refused("--seed", "-1", "from 0 to 2^64 - 1");
  refused("--seed", "18446744073709551616", "from 0 to 2^64 - 1");
  refused("--save-every", "99999999999999999999", "too large");
  refused("--batch-rows", "1000000000000", "fewer or shorter rows");
  refused("--length", "1000000000000", "fewer or shorter rows");
  refused("--rank", "0", "must be a number above 0");
  const ended wide =
      run({"train", "--model", "model", "--data", "task.jsonl", "--method", "lora", "--rank", "1000000000000", "--out", "run"});
  EXPECT_EQ(wide.code, 2) << wide.err;
  EXPECT_EQ(run(train("run", "2", {"--seed", "18446744073709551615", "--clip", "0"})).code, 0);  // the twin
}

TEST_F(exit_codes, an_output_in_the_place_of_an_input_is_refused) {
  select();
  const auto refused = [&](const std::vector<std::string>& words, const std::string& file) {
    const std::string before = content(at(file));
    const ended result = run(words);
    EXPECT_EQ(result.code, 2) << words.front() << ": " << result.err;
    EXPECT_NE(result.err.find("--out"), std::string::npos) << result.err;
    EXPECT_TRUE(content(at(file)) == before) << file;
  };
  const auto score = [](const std::string& out) {
    return std::vector<std::string>{"score", "--model", "model", "--data", "task.jsonl", "--length", "24", "--out", out};
  };
  std::filesystem::create_symlink("task.jsonl", at("link"));
  refused(score("task.jsonl"), "task.jsonl");
  refused(score("link"), "task.jsonl");
  refused(score("model/model.safetensors"), "model/model.safetensors");
  refused({"logits", "--model", "model", "--ids", "1", "--out", "model/config.json"}, "model/config.json");
  refused({"select", "--scores", "scores.json", "--score", "token", "--out", "scores.json"}, "scores.json");
  refused({"report", "--scores", "scores.json", "--out", "scores.json"}, "scores.json");
  refused(train("model", "2"), "model/model.safetensors");
  EXPECT_EQ(run(score("model/scores.json")).code, 0);  // beside the weights is a place like any other
  EXPECT_EQ(run(score("model/scores.json")).code, 0);
}

TEST_F(exit_codes, a_result_that_cannot_be_printed_is_no_success) {
  select();
  const auto shell = [&](const std::string& words, const std::string& streams) {
    const std::string line = "cd '" + folder_.string() + "' && '" ESFT_TOOL "' " + words + " " + streams;
    const int status = std::system(line.c_str());  // NOLINT(cert-env33-c)
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  };
  EXPECT_EQ(shell("inspect model --json", "> printed"), 0);
  EXPECT_EQ(shell("inspect model --json", "> /dev/full 2> said"), 4);
  EXPECT_NE(content(at("said")).find("standard output"), std::string::npos);
  // Closed streams are no files of the run: what is printed must not end in one.
  const std::string words = "train --model model --data task.jsonl --experts experts.json --steps 3 --length 24 --lr 0.01 --out ";
  EXPECT_EQ(shell(words + "open", "> printed 2>&1"), 0);
  EXPECT_EQ(shell(words + "closed", "<&- >&- 2>&-"), 0);
  for (const char* file : {"adapter/adapter.safetensors", "step-3.safetensors"}) {
    EXPECT_TRUE(content(at("open") / file) == content(at("closed") / file)) << file;
  }
  EXPECT_LT(content(at("closed/run.lock")).size(), 20U);
  const std::string log = content(at("closed/metrics.jsonl"));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 3) << log;
}

TEST_F(exit_codes, a_loss_over_no_token_is_no_result) {
  std::ofstream(at("model/tokenizer.json")) << R"({"version": "1.0", "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}, "post_processor": null,
    "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})";
  const auto eval = [&](const char* text) {
    std::ofstream(at("text.jsonl")) << "{\"text\": \"" << text << "\"}\n";
    return run({"eval", "--model", "model", "--data", "text.jsonl", "--length", "24"});
  };
  const ended refused = eval("12345");  // no letter of it is in the vocabulary
  EXPECT_EQ(refused.code, 3) << refused.out;
  EXPECT_NE(refused.err.find("text.jsonl: no token of it is measured"), std::string::npos) << refused.err;
  EXPECT_EQ(eval("abba").code, 0);
}

TEST_F(exit_codes, weights_that_are_not_finite_are_not_saved) {
  select();
  const ended diverged = run(train("run", "3", {"--lr", "1e40"}));  // one update, and the weights are infinite
  EXPECT_EQ(diverged.code, 5) << diverged.err;
  EXPECT_NE(diverged.err.find("NaN or an infinity"), std::string::npos) << diverged.err;
  EXPECT_FALSE(std::filesystem::exists(at("run/adapter")));
  EXPECT_FALSE(std::filesystem::exists(at("run/step-3.safetensors")));
}

TEST_F(exit_codes, numerics) {
  select();
  const ended diverged = run(train("run", "50", {"--lr", "1e30", "--clip", "0"}));
  EXPECT_EQ(diverged.code, 5) << diverged.err;
  EXPECT_NE(diverged.err.find("10 steps in a row"), std::string::npos) << diverged.err;
  EXPECT_FALSE(std::filesystem::exists(at("run/adapter")));
}

TEST_F(exit_codes, json_is_the_only_thing_on_standard_output) {
  select();
  write_demo_data("data");
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"inspect", "model"},
           {"doctor"},
           {"list", "policies"},
           {"eval", "--model", "model", "--data", "task.jsonl", "--max-records", "4"},
           {"plan", "--model", "model", "--experts", "experts.json", "--batch-rows", "2", "--length", "16", "--measure"},
           {"generate", "--model", "model", "--prompt", "1", "--max-new-tokens", "3"},
           train("run", "2"),
           {"verify", "model", "run"},
           demo("data", "demo"),
           {"report", "--scores", "scores.json", "--experts", "experts.json", "--metrics", "run/metrics.jsonl", "--receipt",
            "run/receipt.json"},
       }) {
    std::vector<std::string> with_json = words;
    with_json.emplace_back("--json");
    EXPECT_NO_THROW(static_cast<void>(json(succeed(with_json)))) << words.front();
  }
}

TEST_F(exit_codes, a_plan_counts_weights_in_the_type_they_are_held_in) {
  select();
  const auto bytes = [&](const char* dtype) {
    const auto result = json(succeed({"plan", "--model", "model", "--experts", "experts.json", "--dtype", dtype, "--json"}));
    const esft::json_reader plan(result, "output");
    return std::pair(plan.at("weights_bytes").number(0, 1e12), plan.at("optimizer_bytes").number(0, 1e12));
  };
  const auto wide = bytes("float32");
  const auto narrow = bytes("bfloat16");
  EXPECT_GT(narrow.first, 0);
  EXPECT_EQ(wide.first, 2 * narrow.first);
  EXPECT_EQ(wide.second, narrow.second);  // masters and moments are float32 either way
}

TEST_F(exit_codes, a_plan_reads_no_weight_and_says_when_a_run_does_not_fit) {
  select();
  const std::vector<std::string> plan{"plan", "--model", "model", "--experts", "experts.json"};
  const std::string usual = succeed(plan);
  std::string weights = content(at("model/model.safetensors"));
  std::uint64_t header = 0;
  std::memcpy(&header, weights.data(), sizeof(header));
  std::fill(weights.begin() + static_cast<std::ptrdiff_t>(sizeof(header) + header), weights.end(), '\xff');
  std::ofstream(at("model/model.safetensors"), std::ios::binary) << weights;
  EXPECT_EQ(run(train("run", "2")).code, 3);  // NaN
  EXPECT_EQ(succeed(plan), usual);
  std::vector<std::string> small = plan;
  small.insert(small.end(), {"--memory", "64KiB"});
  const ended tight = run(small);
  EXPECT_EQ(tight.out, usual);
  EXPECT_NE(tight.err.find("more than the 64.0 KiB of --memory"), std::string::npos) << tight.err;
}

TEST_F(exit_codes, quiet_prints_nothing) {
  select();
  const ended result = run(train("run", "2", {"--quiet"}));
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, "");
}

}  // namespace end_to_end_exit_codes_tests
