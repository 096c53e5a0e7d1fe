// SPDX-License-Identifier: Apache-2.0
// Together with two_units_b.cpp: the umbrella in two translation units of one program links.
#include <esft/io.hpp>

#include <string>

#include <gtest/gtest.h>

std::string digest_in_another_unit(const std::string& text);

TEST(io_umbrella, links_in_two_translation_units) {
  const std::string text = esft::write_json(esft::parse_json(R"({"a": [1, 2]})", "memory"), esft::json_layout::compact);
  EXPECT_EQ(text, R"({"a":[1,2]})");
  EXPECT_EQ(digest_in_another_unit(R"( {"a": [1,2]} )"), esft::sha256_hex(std::as_bytes(std::span(text))));
}
