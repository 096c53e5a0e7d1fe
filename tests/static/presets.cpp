// SPDX-License-Identifier: Apache-2.0
// Presets that build in one folder share its cache: what one of them sets, the other must set as well, or it keeps the first one's value.
#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include <gtest/gtest.h>

namespace static_presets_tests {

struct preset {
  std::string folder;
  std::set<std::string> variables;
};

/// The configure presets with what they inherit.
std::map<std::string, preset> presets() {
  const std::filesystem::path file = std::filesystem::path(ESFT_TEST_SOURCE_DIR) / "CMakePresets.json";
  const esft::json_value tree = esft::parse_json(esft::read_small_file(file, 1U << 20U), file.string());
  std::map<std::string, preset> result;
  for (const esft::json_reader& one : esft::json_reader(tree, file.string()).at("configurePresets").elements()) {
    const std::string& name = one.at("name").string();
    preset& here = result[name];
    if (const auto from = one.find("inherits")) here = result.at(from->string());
    if (const auto folder = one.find("binaryDir")) here.folder = folder->string();
    if (const auto variables = one.find("cacheVariables")) {
      for (const auto& member : variables->members()) here.variables.insert(std::string(member.first));
    }
  }
  for (auto& [name, here] : result) {
    const std::string variable = "${presetName}";
    if (const auto at = here.folder.find(variable); at != std::string::npos) here.folder.replace(at, variable.size(), name);
  }
  return result;
}

TEST(presets, those_of_one_folder_set_the_same_variables) {
  const auto all = presets();
  EXPECT_EQ(all.at("quickstart").folder, all.at("release").folder);  // the test has something to compare
  for (const auto& [a, one] : all) {
    for (const auto& [b, other] : all) {
      if (one.folder != other.folder) continue;
      EXPECT_EQ(one.variables, other.variables) << a << " and " << b;
    }
  }
}

}  // namespace static_presets_tests
