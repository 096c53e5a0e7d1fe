// SPDX-License-Identifier: Apache-2.0
#include <esft/io/expert_config.hpp>

#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "io_test.hpp"

namespace expert_config_tests {

using esft::expert_config;
using esft::expert_index;
using esft::input_error_code;
using esft::layer_index;
using esft::test::expect_input_error;

expert_config parse(const std::string& text) { return esft::parse_expert_config(text, "expert_cfg.json"); }

TEST(expert_config, reads_the_official_form) {
  const expert_config config = parse(R"({"experts": {"1": [35, 22, 13], "10": [25, 9], "2": []}, "shared_experts": true, "comment": "x"})");
  ASSERT_EQ(config.experts.layers.size(), 3U);
  EXPECT_EQ(config.experts.layers.at(layer_index(1)), (std::vector{expert_index(35), expert_index(22), expert_index(13)}))
      << "selection order is kept";
  EXPECT_TRUE(config.experts.layers.at(layer_index(2)).empty());
  EXPECT_TRUE(config.shared_experts);
  EXPECT_FALSE(config.non_expert_modules);
}

TEST(expert_config, writes_layers_in_numerical_order) {
  expert_config config;
  config.experts.layers[layer_index(10)] = {expert_index(3), expert_index(1)};
  config.experts.layers[layer_index(9)] = {};
  const std::string text = esft::write_expert_config(config);
  EXPECT_LT(text.find("\"9\""), text.find("\"10\""));
  EXPECT_NE(text.find("[3, 1]"), std::string::npos);
  EXPECT_EQ(parse(text), config);
}

TEST(expert_config, any_selection_reads_back) {
  const bool holds =
      rc::check("round trip", [](const std::map<std::uint8_t, std::map<std::uint8_t, bool>>& layers, bool shared, bool others) {
        expert_config config{{}, shared, others};
        for (const auto& [layer, experts] : layers) {
          auto& list = config.experts.layers[layer_index(layer)];
          for (const auto& [expert, front] : experts) list.insert(front ? list.begin() : list.end(), expert_index(expert));
        }
        RC_ASSERT(parse(esft::write_expert_config(config)) == config);
      });
  EXPECT_TRUE(holds);
}

TEST(expert_config, refuses_what_is_not_a_selection) {
  for (const char* key : {"-1", "01", "+1", "1.0", "x", "", "4096", " 1", "99999999999"}) {
    expect_input_error(
        input_error_code::out_of_range, [&] { parse(std::string(R"({"experts":{")") + key + R"(":[1]}})"); }, "expert_cfg.json");
  }
  expect_input_error(input_error_code::out_of_range, [] { parse(R"({"experts":{"1":[4096]}})"); }, "/experts/1/0");
  expect_input_error(input_error_code::out_of_range, [] { parse(R"({"experts":{"1":[-1]}})"); });
  expect_input_error(input_error_code::wrong_type, [] { parse(R"({"experts":{"1":["7"]}})"); });
  expect_input_error(input_error_code::wrong_type, [] { parse(R"({"experts":{"1":7}})"); });
  expect_input_error(input_error_code::wrong_type, [] { parse(R"({"experts":[]})"); });
  expect_input_error(input_error_code::wrong_type, [] { parse(R"({"experts":{},"shared_experts":1})"); });
  expect_input_error(input_error_code::bad_record, [] { parse(R"({"experts":{"1":[3,3]}})"); }, "twice");
  expect_input_error(input_error_code::missing_key, [] { parse("{}"); }, "experts");
}

}  // namespace expert_config_tests
