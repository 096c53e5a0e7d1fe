// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A temporary folder with a tiny random model and data, and a way to run the tool in it.

#include <esft/core/dtype.hpp>
#include <esft/io/expert_config.hpp>
#include <esft/io/hf_config.hpp>
#include <esft/io/json.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace end_to_end {

/// How a finished process ended.
struct ended {
  int code = -1;  ///< exit code; 128 + signal if a signal ended it
  std::string out;
  std::string err;
};

inline std::string content(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// The backend on which the suites run instead of the usual one; empty where it is the usual one.
inline std::string chosen_backend() {
  const char* name = std::getenv("ESFT_TEST_BACKEND");
  return name == nullptr ? std::string() : name;
}

/// A running tool.
class process {
 public:
  process(const std::filesystem::path& folder, const std::vector<std::string>& arguments, rlim_t file_size_limit = RLIM_INFINITY) {
    static int count = 0;
    out_ = folder / ("out" + std::to_string(count));
    err_ = folder / ("err" + std::to_string(count++));
    std::vector<std::string> words{ESFT_TOOL};
    words.insert(words.end(), arguments.begin(), arguments.end());
    // Where a test does not ask for a backend; a study asks in its file.
    const std::vector<std::string> computing{"score", "train", "eval", "generate", "logits", "audit", "bench", "demo"};
    const bool computes = !arguments.empty() && std::count(computing.begin(), computing.end(), arguments.front()) > 0;
    const std::string backend = chosen_backend();
    if (!backend.empty() && computes && std::count(arguments.begin(), arguments.end(), "--backend") == 0) {
      words.insert(words.end(), {"--backend", backend});
    }
    std::vector<char*> raw;
    for (std::string& word : words) raw.push_back(word.data());
    raw.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      const int out = ::open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      const int err = ::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(out, STDOUT_FILENO);
      ::dup2(err, STDERR_FILENO);
      if (::chdir(folder.c_str()) != 0) ::_exit(126);
      if (file_size_limit != RLIM_INFINITY) {
        const rlimit limit{file_size_limit, file_size_limit};
        ::setrlimit(RLIMIT_FSIZE, &limit);
      }
      ::execv(raw[0], raw.data());
      ::_exit(127);
    }
  }
  process(const process&) = delete;
  process& operator=(const process&) = delete;
  ~process() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  void signal(int number) const { ::kill(pid_, number); }
  [[nodiscard]] bool running() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
  }
  ended wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), content(out_), content(err_)};
  }

 private:
  pid_t pid_ = -1;
  std::filesystem::path out_, err_;
};

/// A fresh folder for each test.
class workspace : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) / ("esft_" + std::string(test->name()) + "_" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    write_model("model", 1);
    write_data();
  }
  void TearDown() override {
    if (!HasFailure()) std::filesystem::remove_all(folder_);
  }

  [[nodiscard]] std::filesystem::path at(const std::string& name) const { return folder_ / name; }
  [[nodiscard]] ended run(const std::vector<std::string>& arguments) const { return process(folder_, arguments).wait(); }
  /// Runs a command that must succeed and returns its standard output.
  [[nodiscard]] std::string succeed(const std::vector<std::string>& arguments) const {
    const ended result = run(arguments);
    EXPECT_EQ(result.code, 0) << arguments.front() << ": " << result.err;
    return result.out;
  }
  [[nodiscard]] static esft::json_value json(const std::string& text) { return esft::parse_json(text, "output"); }

  /// Arguments of a short training run into `out`; `more` are further options, or other values of these.
  [[nodiscard]] static std::vector<std::string> train(const std::string& out, const std::string& steps,
                                                      const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{"train",        "--model", "model", "--data", "task.jsonl", "--experts",
                                   "experts.json", "--steps", steps,   "--out",  out};
    for (const auto& [option, value] :
         {std::pair{"--lr", "0.01"}, std::pair{"--length", "24"}, std::pair{"--batch-rows", "4"}, std::pair{"--threads", "1"}}) {
      if (std::find(more.begin(), more.end(), option) == more.end()) words.insert(words.end(), {option, value});
    }
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  /// A random model of three layers, the last two with six experts; bfloat16 on disk.
  void write_model(const std::string& name, std::uint64_t seed) const;
  /// A random model of any family: the text of its config.json; the tokenizer is of bytes, 259 tokens.
  /// @param together all experts of a layer are one tensor, as transformers 5 holds them
  void write_model_of(const std::string& name, const std::string& config, std::uint64_t seed, bool together = false,
                      esft::dtype type = esft::dtype::bfloat16) const;
  static void write_random_weights(const std::filesystem::path& directory, const esft::hf_config& hf, std::uint64_t seed,
                                   bool together = false, esft::dtype type = esft::dtype::bfloat16);
  void write_data() const {
    std::ofstream task(at("task.jsonl"));
    std::ofstream other(at("other.jsonl"));
    for (int i = 0; i < 24; ++i) {
      const std::string digit = std::to_string(i % 10);
      task << R"({"prompt":")" << digit << "+1"
           << R"(","completion":")" << std::to_string(i % 10 + 1) << "\"}\n";
      other << R"({"text":"a line of text, number )" << digit << "\"}\n";
    }
  }
  /// A folder with the tasks and probes that `esft demo` runs on, and its arguments for a run of a second.
  void write_demo_data(const std::string& folder) const {
    std::filesystem::create_directories(at(folder));
    for (const char* task : {"arithmetic_prefix", "package_json", "package_section", "licence_id"}) {
      for (const char* part : {".train.jsonl", ".test.jsonl"})
        std::filesystem::copy_file(at("task.jsonl"), at(folder) / (std::string(task) + part));
    }
    for (const char* domain : {"scripture_en", "scripture_es", "python", "licences", "packages", "arithmetic"})
      std::filesystem::copy_file(at("other.jsonl"), at(folder) / ("probe." + std::string(domain) + ".jsonl"));
  }
  [[nodiscard]] static std::vector<std::string> demo(const std::string& data, const std::string& out) {
    return {"demo",         "--model", "model",   "--data", data,        "--out", out,         "--steps", "4",
            "--batch-rows", "4",       "--draws", "1",      "--seconds", "0",     "--threads", "1"};
  }
  void write_experts(const std::string& name, std::map<std::int32_t, std::vector<std::int32_t>> layers) const {
    esft::expert_config config;
    for (const auto& [layer, experts] : layers) {
      auto& list = config.experts.layers[esft::layer_index{layer}];
      for (const auto expert : experts) list.emplace_back(expert);
    }
    esft::save_expert_config(at(name), config);
  }
  /// Scores and selects; fails the test if that does not work.
  void select() const {
    static_cast<void>(succeed({"score", "--model", "model", "--data", "task.jsonl", "--out", "scores.json", "--length", "24", "--quiet"}));
    static_cast<void>(
        succeed({"select", "--scores", "scores.json", "--score", "token", "--policy", "top-p", "--p", "0.3", "--out", "experts.json"}));
  }

  std::filesystem::path folder_;
};

}  // namespace end_to_end
