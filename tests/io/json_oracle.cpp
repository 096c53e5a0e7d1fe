// SPDX-License-Identifier: Apache-2.0
// Our JSON reader against Boost.JSON: whatever text is made of a valid one by changing a few bytes, both accept it or both refuse it,
// and where both accept it they read the same tree.
#include <esft/io/json.hpp>

#include <boost/json/src.hpp>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace json_oracle_tests {

namespace json = boost::json;
using esft::input_error_code;

bool same(const esft::json_value& ours, const json::value& theirs) {
  switch (ours.kind()) {
    case esft::json_kind::null: return theirs.is_null();
    case esft::json_kind::boolean: return theirs.is_bool() && theirs.get_bool() == *ours.get_if<bool>();
    case esft::json_kind::integer: return theirs.is_int64() && theirs.get_int64() == *ours.get_if<std::int64_t>();
    case esft::json_kind::large_integer: return theirs.is_uint64() && theirs.get_uint64() == *ours.get_if<std::uint64_t>();
    case esft::json_kind::real: return theirs.is_double();  // Boost rounds some decimals to a neighbour
    case esft::json_kind::string: return theirs.is_string() && std::string_view(theirs.get_string()) == *ours.get_if<std::string>();
    case esft::json_kind::array: {
      const auto& elements = *ours.get_if<esft::json_value::array>();
      if (!theirs.is_array() || theirs.get_array().size() != elements.size()) return false;
      for (std::size_t i = 0; i < elements.size(); ++i) {
        if (!same(elements[i], theirs.get_array()[i])) return false;
      }
      return true;
    }
    case esft::json_kind::object: {
      const auto& members = *ours.get_if<esft::json_value::object>();
      if (!theirs.is_object() || theirs.get_object().size() != members.size()) return false;
      for (const auto& member : members) {
        const auto* value = theirs.get_object().if_contains(member.key);
        if (value == nullptr || !same(member.value, *value)) return false;
      }
      return true;
    }
  }
  return false;
}

TEST(json, agrees_with_another_reader_on_damaged_texts) {
  const std::string seeds[] = {
      R"({"experts":{"1":[35,22,13],"10":[]},"shared_experts":false,"x":null})",
      R"([-0.5e+10,1E3,18446744073709551615,-9223372036854775808,0,-0,1.25,true])",
      R"({"a":"\u00e9\ud83d\ude00\n\"\\","é€😀":[[[{}]]]," ":" \t "})",
      R"({"__metadata__":{"k":"v"},"t":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})",
  };
  const std::string_view bytes = "{}[]\",:0123456789-+.eE\\utfn \n\x01\x7f\x80\xc3\xed\xf0\xff";
  std::mt19937 random(20240601);
  const auto below = [&](std::size_t end) { return static_cast<std::size_t>(random()) % end; };
  std::size_t accepted = 0;
  std::size_t refused = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string text = seeds[below(std::size(seeds))];
    for (std::size_t change = below(4); change > 0; --change) {
      const std::size_t at = below(text.size());
      switch (below(4)) {
        case 0: text[at] = bytes[below(bytes.size())]; break;
        case 1: text.erase(at, 1 + below(3)); break;
        case 2: text.insert(at, 1, bytes[below(bytes.size())]); break;
        default: text.insert(at, text.substr(below(text.size()), below(12))); break;
      }
      if (text.empty()) text = " ";
    }
    boost::system::error_code failure;
    const json::value theirs = json::parse(text, failure);
    if (failure == json::error::exponent_overflow) continue;  // it refuses 0e9999999999 as well, which is zero
    try {
      const esft::json_value ours = esft::parse_json(text, "text");
      ASSERT_FALSE(failure) << text << ": " << failure.message();
      ASSERT_TRUE(same(ours, theirs)) << text;
      ASSERT_EQ(esft::parse_json(esft::write_json(ours), "text"), ours) << text;
      ++accepted;
    } catch (const esft::input_error& problem) {
      // Stricter on purpose: the same key twice, a number beyond a double.
      const bool stricter = problem.code() == input_error_code::duplicate_key || problem.code() == input_error_code::out_of_range;
      ASSERT_TRUE(stricter || failure) << text << ": " << problem.what();
      ++refused;
    }
  }
  EXPECT_GT(accepted, 20'000U);
  EXPECT_GT(refused, 20'000U);
}

}  // namespace json_oracle_tests
