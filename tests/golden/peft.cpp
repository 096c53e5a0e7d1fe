// SPDX-License-Identifier: Apache-2.0
// LoRA directories that the package peft made or read: base and adapter say what peft computes; what goes back is what came.
#include "goldens.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/io/npy.hpp>
#include <esft/io/peft_export.hpp>
#include <esft/io/peft_import.hpp>
#include <esft/io/receipt.hpp>
#include <esft/model/load.hpp>
#include <esft/train/apply_adapter.hpp>
#include <esft/train/evaluation.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

namespace golden_peft_tests {

using esft_test::expect_close;
using esft_test::golden_bound;
using esft_test::golden_path;

struct adapters : public ::testing::Test {
  std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / ("esft_peft_" + std::to_string(::getpid()));

  adapters() { std::filesystem::create_directories(folder); }
  ~adapters() override { std::filesystem::remove_all(folder); }

  static std::string family_of(const std::string& name) {
    return name.find("mixtral") != std::string::npos   ? "mixtral"
           : name.find("gpt_oss") != std::string::npos ? "gpt_oss"
                                                       : "deepseek_v2_lite";
  }
  static std::vector<double> logits(const std::string& family, const std::filesystem::path& adapter, const std::vector<std::int32_t>& ids) {
    esft::reference_backend<float> backend;
    auto model = esft::load_decoder(backend, esft::model_directory::open(golden_path(family)));
    if (!adapter.empty()) esft::apply_adapter(backend, model, esft::read_adapter(adapter));
    const std::vector<float> values = esft::sequence_logits(backend, model, ids);
    return {values.begin(), values.end()};
  }
  static std::vector<double> numbers(const std::filesystem::path& npy) {
    const auto array = esft::read_npy(npy);
    const auto values = array.as<float>();
    return {values.begin(), values.end()};
  }
  static std::vector<std::int32_t> tokens(const std::string& name) {
    const auto array = esft::read_npy(golden_path(name) / "tokens.npy");
    const auto ids = array.as<std::int32_t>();
    return {ids.begin(), ids.end()};
  }
  static std::map<std::string, std::string> digests(const std::filesystem::path& directory) {
    const auto file = esft::safetensors_file::open(directory / esft::peft_files::tensors);
    std::map<std::string, std::string> result;
    for (const auto& record : file.tensors()) {
      result[record.name] = esft::to_string(record.shape) + esft::tensor_digest(file, record);
    }
    return result;
  }
};

TEST_F(adapters, of_peft_give_its_logits_and_survive_both_layouts) {
  for (const std::string name : {"peft_mixtral_modules", "peft_mixtral_rslora", "peft_deepseek_v2_lite", "peft_gpt_oss"}) {
    SCOPED_TRACE(name);
    const std::string family = family_of(name);
    const auto base = esft::model_directory::open(golden_path(family));
    const auto imported = esft::import_peft_adapter(golden_path(name), base, folder / name);
    EXPECT_GT(imported.pairs, 20U);
    EXPECT_EQ(imported.idle, 0U);
    const auto wanted = numbers(golden_path(name) / "logits.npy");
    expect_close(logits(family, folder / name, tokens(name)), wanted, golden_bound, "imported");
    EXPECT_TRUE(esft::verify_adapter(golden_path(family), folder / name).ok());
    for (const auto layout : {esft::peft_layout::modules, esft::peft_layout::parameters}) {
      if (layout == esft::peft_layout::modules && family == "gpt_oss") {
        EXPECT_THROW(esft::write_peft_adapter(folder / "none", base, esft::read_adapter(folder / name), layout), esft::usage_error);
        continue;
      }
      const std::string again = name + (layout == esft::peft_layout::modules ? "_modules" : "_parameters");
      esft::write_peft_adapter(folder / again, base, esft::read_adapter(folder / name), layout);
      static_cast<void>(esft::import_peft_adapter(folder / again, base, folder / (again + "_back")));
      expect_close(logits(family, folder / (again + "_back"), tokens(name)), wanted, golden_bound, again);
    }
  }
}

TEST_F(adapters, in_the_layout_of_parameters_go_back_to_the_very_tensors) {
  const auto base = esft::model_directory::open(golden_path("mixtral"));
  static_cast<void>(esft::import_peft_adapter(golden_path("peft_mixtral_rslora"), base, folder / "ours"));
  esft::write_peft_adapter(folder / "theirs", base, esft::read_adapter(folder / "ours"), esft::peft_layout::parameters);
  EXPECT_EQ(digests(folder / "theirs"), digests(golden_path("peft_mixtral_rslora")));
  const auto config = esft::read_peft_config(folder / "theirs");
  EXPECT_TRUE(config.how.rank_stabilised);
  EXPECT_EQ(config.how.rank, 2);
  EXPECT_EQ(config.how.alpha, 3);
  EXPECT_EQ(config.target_modules.size(), 3U) << "o_proj of three layers";
  EXPECT_TRUE(esft::targets_parameter(config, "model.layers.2.mlp.experts.down_proj"));
  EXPECT_TRUE(esft::targets_parameter(config, "model.layers.0.mlp.gate.weight"));
}

}  // namespace golden_peft_tests
