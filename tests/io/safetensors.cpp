// SPDX-License-Identifier: Apache-2.0
#include <esft/io/safetensors.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "io_test.hpp"

namespace safetensors_tests {

using esft::dtype;
using esft::input_error_code;
using esft::safetensors_file;
using esft::tensor_shape;
using esft::test::expect_input_error;
using esft::test::raw_safetensors;
using esft::test::scratch_directory;
using esft::test::slurp;
using esft::test::spill;

template <class T>
esft::tensor_source source(std::string name, tensor_shape shape, const std::vector<T>& values, dtype type = esft::dtype_v<T>) {
  return esft::memory_source(std::move(name), type, std::move(shape), std::as_bytes(std::span(values)));
}

TEST(safetensors, writes_and_reads_back) {
  const scratch_directory scratch;
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<esft::bf16> b = {esft::bf16(0.5F), esft::bf16(-2.0F)};
  const std::vector<std::uint8_t> none;
  const std::vector<std::int64_t> scalar = {-7};
  const std::vector<esft::tensor_source> sources = {source("b", {2}, b), source("a", {2, 3}, a), source("empty", {0, 4}, none),
                                                    source("n", {}, scalar)};
  esft::write_safetensors(scratch / "x.safetensors", sources, {{"k", "v\"\n"}});
  const auto file = safetensors_file::open(scratch / "x.safetensors");
  ASSERT_EQ(file.tensors().size(), 4U);
  EXPECT_EQ(file.metadata().at("k"), "v\"\n");
  EXPECT_EQ(file.data_offset() % 8, 0U);
  EXPECT_EQ(file.at("a").shape, (tensor_shape{2, 3}));
  EXPECT_EQ(file.at("n").begin, 0U) << "the widest element type comes first";
  EXPECT_LT(file.at("a").begin, file.at("b").begin);
  std::vector<float> back(6);
  file.read_floats(file.at("a"), back);
  EXPECT_EQ(back, a);
  std::vector<float> wide(2);
  file.read_floats(file.at("b"), wide);
  EXPECT_EQ(wide, (std::vector<float>{0.5F, -2.0F}));
  std::vector<std::byte> raw(8);
  file.read(file.at("n"), raw);
  EXPECT_EQ(esft::load_little_endian<std::int64_t>(raw), -7);
  EXPECT_EQ(file.find("zzz"), nullptr);
  expect_input_error(input_error_code::unknown_tensor, [&] { static_cast<void>(file.at("zzz")); }, "zzz");
  std::vector<float> one(1);
  expect_input_error(input_error_code::dtype_mismatch, [&] { file.read_floats(file.at("n"), one); }, "I64");
  EXPECT_THROW(file.read_floats(file.at("a"), one), esft::contract_violation);
}

TEST(safetensors, equal_content_gives_equal_bytes_in_any_order) {
  const scratch_directory scratch;
  const std::vector<float> values = {1, 2};
  std::vector<esft::tensor_source> sources = {source("b", {2}, values), source("a", {1, 2}, values)};
  esft::write_safetensors(scratch / "x.safetensors", sources, {{"m", "1"}});
  std::swap(sources[0], sources[1]);
  esft::write_safetensors(scratch / "y.safetensors", sources, {{"m", "1"}});
  EXPECT_EQ(slurp(scratch / "x.safetensors"), slurp(scratch / "y.safetensors"));
  sources[0].name = sources[1].name;
  EXPECT_THROW(esft::write_safetensors(scratch / "z.safetensors", sources), esft::contract_violation);
  EXPECT_FALSE(std::filesystem::exists(scratch / "z.safetensors"));
}

TEST(safetensors, a_source_must_hand_exactly_its_bytes) {
  const scratch_directory scratch;
  const std::vector<float> values = {1, 2};
  for (const esft::index extent : {1, 3}) {
    const std::vector<esft::tensor_source> wrong = {source("a", {extent}, values)};
    EXPECT_THROW(esft::write_safetensors(scratch / "x.safetensors", wrong), esft::contract_violation);
  }
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(safetensors, any_tensors_read_back_equal) {
  const scratch_directory scratch;
  const bool holds = rc::check("round trip", [&](const std::map<std::string, std::vector<std::uint16_t>>& tensors) {
    std::vector<esft::tensor_source> sources;
    std::map<std::string, std::vector<std::uint16_t>> expected;
    for (const auto& [key, values] : tensors) {
      std::string name = "t";
      for (const char c : key) name += std::to_string(static_cast<unsigned char>(c)) + ".";
      expected[name] = values;
    }
    for (const auto& [name, values] : expected)
      sources.push_back(source(name, {static_cast<esft::index>(values.size()), 1}, values, dtype::float16));
    esft::write_safetensors(scratch / "x.safetensors", sources);
    const auto file = safetensors_file::open(scratch / "x.safetensors");
    RC_ASSERT(file.tensors().size() == expected.size());
    for (const auto& [name, values] : expected) {
      std::vector<std::uint16_t> back(values.size());
      file.read(file.at(name), std::as_writable_bytes(std::span(back)));
      RC_ASSERT(back == values);
    }
  });
  EXPECT_TRUE(holds);
}

TEST(safetensors, converts_every_half_by_value) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = esft::f16::from_bits(half);
    const int exponent = static_cast<int>((bits >> 10U) & 31U);
    const auto fraction = static_cast<float>(bits & 1023U);
    const float sign = bits >> 15U != 0 ? -1.0F : 1.0F;
    if (exponent == 31 && fraction != 0) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(static_cast<float>(esft::f16(value)))) << bits;
      continue;
    } else if (exponent == 31) {
      ASSERT_EQ(value, sign * std::numeric_limits<float>::infinity());
    } else {
      ASSERT_EQ(value, sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25))) << bits;
      ASSERT_EQ(std::signbit(value), bits >> 15U != 0);
    }
    ASSERT_EQ(esft::f16(value).bits, half) << "what a half holds is stored as it is";
    if (exponent == 31 || bits >> 15U != 0) continue;
    const float next = exponent == 30 && fraction == 1023 ? 65536.0F : static_cast<float>(esft::f16::from_bits(static_cast<std::uint16_t>(half + 1)));
    const float middle = value + (next - value) / 2;  // exact: floats have more places
    ASSERT_EQ(esft::f16(std::nextafter(middle, 0.0F)).bits, half);
    ASSERT_EQ(esft::f16(std::nextafter(middle, 1e9F)).bits, half + 1);
    ASSERT_EQ(esft::f16(middle).bits, half % 2 == 0 ? half : half + 1) << "ties go to the even one";
    ASSERT_EQ(esft::f16(-middle).bits, 0x8000U | (half % 2 == 0 ? half : half + 1U));
  }
}

TEST(safetensors, converts_long_tensors_in_pieces) {
  const scratch_directory scratch;
  std::vector<double> values(100'003);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) / 8;
  const std::vector<esft::tensor_source> sources = {source("a", {static_cast<esft::index>(values.size())}, values)};
  esft::write_safetensors(scratch / "x.safetensors", sources);
  const auto file = safetensors_file::open(scratch / "x.safetensors");
  std::vector<float> back(values.size());
  file.read_floats(file.at("a"), back);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(back[i], static_cast<float>(values[i]));
}

struct hostile_header {
  input_error_code code;
  std::string header;
  std::string data;
};

TEST(safetensors, hostile_headers_give_their_code) {
  const scratch_directory scratch;
  const auto path = scratch / "x.safetensors";
  const std::string data(8, 'd');
  const auto one = [](const std::string& fields) { return R"({"a":{)" + fields + "}}"; };
  const std::string valid = one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])");
  const std::string second = R"("b":{"dtype":"F32","shape":[1],"data_offsets":)";
  const std::vector<hostile_header> cases = {
      {input_error_code::bad_json, valid.substr(1), data},
      {input_error_code::bad_json, " " + valid, data},
      {input_error_code::bad_json, valid + "\n", data},
      {input_error_code::bad_json, valid + "}", data},
      {input_error_code::bad_json, "[]", ""},
      {input_error_code::bad_json, std::string(1000, ' '), ""},
      {input_error_code::duplicate_key,
       R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"\u0061":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", data},
      {input_error_code::duplicate_key, one(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"), data},
      {input_error_code::duplicate_key, R"({"__metadata__":{},"__metadata__":{}})", ""},
      {input_error_code::duplicate_key, R"({"__metadata__":{"k":"1","\u006b":"2"}})", ""},
      {input_error_code::missing_key, one(R"("dtype":"F32","shape":[2])"), data},
      {input_error_code::missing_key, one(""), data},
      {input_error_code::unknown_field, one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"strides":[1])"), data},
      {input_error_code::unknown_dtype, one(R"("dtype":"f32","shape":[2],"data_offsets":[0,8])"), data},
      {input_error_code::unknown_dtype, one(R"("dtype":"F4","shape":[16],"data_offsets":[0,8])"), data},
      {input_error_code::wrong_type, one(R"("dtype":3,"shape":[2],"data_offsets":[0,8])"), data},
      {input_error_code::wrong_type, one(R"("dtype":["F32"],"shape":[2],"data_offsets":[0,8])"), data},
      {input_error_code::wrong_type, one(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), data},
      {input_error_code::wrong_type, one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), data},
      {input_error_code::wrong_type, one(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), data},
      {input_error_code::wrong_type, one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,9])"), data},
      {input_error_code::wrong_type, one(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), data},
      {input_error_code::wrong_type, R"({"a":5})", ""},
      {input_error_code::wrong_type, R"({"a":[]})", ""},
      {input_error_code::wrong_type, R"({"__metadata__":{"k":1}})", ""},
      {input_error_code::wrong_type, R"({"__metadata__":{"k":{}}})", ""},
      {input_error_code::wrong_type, R"({"__metadata__":"x"})", ""},
      {input_error_code::out_of_range, one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), data},
      {input_error_code::out_of_range, one(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), data},
      {input_error_code::out_of_range, one(R"("dtype":"F32","shape":[281474976710656],"data_offsets":[0,8])"), data},
      {input_error_code::out_of_range, one(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8])"), data},
      {input_error_code::out_of_range, one(R"("dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615])"), data},
      {input_error_code::rank_too_high, one(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])"), data},
      {input_error_code::size_overflow, one(R"("dtype":"F32","shape":[4398046511105,4194304],"data_offsets":[0,8])"), data},
      {input_error_code::size_overflow, one(R"("dtype":"F64","shape":[2147483648,2147483648],"data_offsets":[0,8])"), data},
      {input_error_code::offsets, one(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), data},
      {input_error_code::offsets, one(R"("dtype":"F32","shape":[1],"data_offsets":[8,4])"), data},
      {input_error_code::offsets, one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), data},
      {input_error_code::offsets, one(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])"), data},
      {input_error_code::offsets, "{}", "polyglot"},
      {input_error_code::offsets, R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)" + second + "[4,8]}}", data},
      {input_error_code::byte_count, one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), data},
      {input_error_code::byte_count, one(R"("dtype":"F64","shape":[2],"data_offsets":[0,8])"), data},
      {input_error_code::byte_count, one(R"("dtype":"F32","shape":[2,0],"data_offsets":[0,8])"), data},
      {input_error_code::bad_utf8,
       R"({"a)"
       "\xff"
       R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       data},
      {input_error_code::bad_utf8, R"({"a\u0000":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", data},
      {input_error_code::bad_utf8, R"({"a\u001b[2J":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", data},
  };
  for (const hostile_header& hostile : cases) {
    SCOPED_TRACE(hostile.header);
    spill(path, raw_safetensors(hostile.header, hostile.data));
    expect_input_error(hostile.code, [&] { safetensors_file::open(path); }, "x.safetensors");
  }
  for (const std::string& good : {valid, valid + "      "}) {
    spill(path, raw_safetensors(good, data));
    EXPECT_EQ(safetensors_file::open(path).tensors().size(), 1U);
  }
  spill(path, raw_safetensors("{}"));
  EXPECT_TRUE(safetensors_file::open(path).tensors().empty());
  spill(path, raw_safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)" + second + "[4,8]}}", data));
  EXPECT_EQ(safetensors_file::open(path).tensors().size(), 2U) << "the positive twin of the overlapping pair";
}

TEST(safetensors, hostile_lengths_and_files) {
  const scratch_directory scratch;
  const auto path = scratch / "x.safetensors";
  for (const std::uint64_t length :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{100'000'001}, std::uint64_t{1} << 31U, std::uint64_t{1} << 53U,
        (std::uint64_t{1} << 63U) - 1, std::uint64_t{1} << 63U, ~std::uint64_t{0} - 7, ~std::uint64_t{0} - 1}) {
    spill(path, raw_safetensors("{}", "", length));
    expect_input_error(input_error_code::header_length, [&] { safetensors_file::open(path); });
  }
  spill(path, "1234567");
  expect_input_error(input_error_code::too_small, [&] { safetensors_file::open(path); });
  spill(path, "");
  expect_input_error(input_error_code::too_small, [&] { safetensors_file::open(path); });
  expect_input_error(input_error_code::not_regular_file, [&] { safetensors_file::open("/dev/zero"); });
  expect_input_error(input_error_code::too_small, [&] { safetensors_file::open("/proc/self/status"); });
  expect_input_error(input_error_code::unsupported_format, [&] { safetensors_file::open(scratch / "pytorch_model.bin"); }, "convert");
  expect_input_error(input_error_code::cannot_open, [&] { safetensors_file::open(scratch / "absent.safetensors"); });
}

std::string small_file(const scratch_directory& scratch) {
  const std::vector<float> a = {1, 2, 3};
  const std::vector<esft::bf16> b = {esft::bf16(4.0F)};
  const std::vector<esft::tensor_source> sources = {source("a", {3}, a), source("b", {1}, b)};
  esft::write_safetensors(scratch / "whole.safetensors", sources, {{"k", "v"}}, esft::self_digest::in_metadata);
  return slurp(scratch / "whole.safetensors");
}

TEST(safetensors, truncation_at_every_byte_is_an_error) {
  const scratch_directory scratch;
  const std::string whole = small_file(scratch);
  const auto path = scratch / "cut.safetensors";
  for (std::size_t length = 0; length < whole.size(); ++length) {
    spill(path, whole.substr(0, length));
    EXPECT_THROW(safetensors_file::open(path), esft::input_error) << length;
  }
  spill(path, whole + "x");
  expect_input_error(input_error_code::offsets, [&] { safetensors_file::open(path); });
  spill(path, whole);
  EXPECT_EQ(safetensors_file::open(path).tensors().size(), 2U);
}

TEST(safetensors, the_self_digest_finds_every_flipped_bit) {
  const scratch_directory scratch;
  const std::string whole = small_file(scratch);
  const auto path = scratch / "flipped.safetensors";
  EXPECT_NO_THROW(esft::verify_self_digest(safetensors_file::open(scratch / "whole.safetensors")));
  for (std::size_t bit = 64; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    spill(path, damaged);
    EXPECT_THROW(esft::verify_self_digest(safetensors_file::open(path)), esft::input_error) << bit;
  }
  spill(path, raw_safetensors("{}"));
  expect_input_error(input_error_code::digest_mismatch, [&] { esft::verify_self_digest(safetensors_file::open(path)); }, "carries no");
}

TEST(safetensors, a_file_that_shrinks_under_the_reader_is_an_error_not_a_signal) {
  const scratch_directory scratch;
  small_file(scratch);
  const auto file = safetensors_file::open(scratch / "whole.safetensors");
  std::filesystem::resize_file(scratch / "whole.safetensors", file.data_offset() + 4);
  std::vector<float> values(3);
  expect_input_error(input_error_code::changed_while_open, [&] { file.read_floats(file.at("a"), values); });
}

}  // namespace safetensors_tests
