// SPDX-License-Identifier: Apache-2.0
#include <esft/train/open_tokenizer.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace open_tokenizer_tests {

namespace fs = std::filesystem;

/// A directory of its own for each test, with the golden tokenizer of a family if one is named.
class model_folder {
 public:
  explicit model_folder(const std::string& family = {}) {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path = fs::path(::testing::TempDir()) / ("esft-open-tokenizer-" + std::string(test->name()) + std::to_string(count_++));
    fs::create_directories(path);
    const fs::path golden = fs::path(ESFT_TEST_SOURCE_DIR) / "tests" / "golden" / "tokenizers";
    if (!family.empty()) fs::copy_file(golden / (family + ".json"), path / "tokenizer.json");
  }
  model_folder(const model_folder&) = delete;
  ~model_folder() { fs::remove_all(path); }

  void settings(const std::string& text) const { std::ofstream(path / "tokenizer_config.json") << text; }

  fs::path path;

 private:
  static inline int count_ = 0;
};

esft::hf_config config_of(esft::index vocabulary) {
  esft::hf_config config;
  config.vocab_size = vocabulary;
  return config;
}

std::string refusal(const model_folder& folder, const esft::hf_config& config) {
  try {
    (void)esft::open_tokenizer(folder.path, config);
  } catch (const esft::error& problem) {
    EXPECT_EQ(problem.category(), esft::error_category::bad_input);
    EXPECT_NE(std::string(problem.what()).find("tokenizer"), std::string::npos);
    return problem.what();
  }
  return "accepted";
}

TEST(open_tokenizer, bytes_are_for_models_of_bytes_only) {
  const model_folder folder;
  EXPECT_EQ(esft::open_tokenizer(folder.path, config_of(264)).name, "byte");
  EXPECT_NE(refusal(folder, config_of(151936)).find("151936 tokens are not those of the byte tokenizer"), std::string::npos);
}

TEST(open_tokenizer, a_tokenizer_file_wins_and_must_fit_the_model) {
  const model_folder folder("mixtral");
  folder.settings(R"({"add_bos_token":true,"bos_token":"<s>","eos_token":{"content":"</s>","lstrip":false},"pad_token":null})");
  const esft::any_tokenizer words = esft::open_tokenizer(folder.path, config_of(1024));
  EXPECT_EQ(words.name, "bpe");
  EXPECT_EQ((std::vector<std::int32_t>{words.bos, words.eos, words.pad}), (std::vector<std::int32_t>{1, 2, 2}));
  EXPECT_EQ(words.decode(words.encode("a fox")), "a fox");
  EXPECT_NE(refusal(folder, config_of(264)).find("the model only 264 tokens"), std::string::npos);
}

TEST(open_tokenizer, a_row_begins_as_it_did_in_pre_training) {
  const auto bos_with = [](const char* family, const std::string& settings) {
    const model_folder folder(family);
    folder.settings(settings);
    return esft::open_tokenizer(folder.path, config_of(1024)).bos;
  };
  EXPECT_EQ(bos_with("mixtral", R"({"bos_token":"<s>","eos_token":"</s>"})"), 1) << "its post-processor puts it there";
  EXPECT_EQ(bos_with("mixtral", R"({"add_bos_token":false,"bos_token":"<s>","eos_token":"</s>"})"), esft::no_token);
  EXPECT_EQ(bos_with("qwen", R"({"bos_token":null,"eos_token":"<|im_end|>"})"), esft::no_token);
  EXPECT_EQ(bos_with("gpt_oss", R"({"bos_token":"<|startoftext|>","eos_token":"<|return|>"})"), esft::no_token);
}

TEST(open_tokenizer, the_configuration_of_the_model_stands_in_for_a_missing_one) {
  const model_folder folder("qwen");
  EXPECT_NE(refusal(folder, config_of(1024)).find("no token ends a row"), std::string::npos);
  esft::hf_config config = config_of(1024);
  config.eos_token_id = 7;
  EXPECT_EQ(esft::open_tokenizer(folder.path, config).eos, 7);
}

TEST(open_tokenizer, special_tokens_must_exist) {
  const model_folder folder("qwen");
  folder.settings(R"({"eos_token":"<|nothing|>"})");
  EXPECT_NE(refusal(folder, config_of(1024)).find("'<|nothing|>' is no token"), std::string::npos);
}

}  // namespace open_tokenizer_tests
