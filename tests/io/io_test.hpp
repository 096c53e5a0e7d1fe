// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What the io tests share: raw safetensors files, and the check of an error code.

#include "scratch_directory.hpp"

#include <esft/io/file.hpp>
#include <esft/io/input_error.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace esft::test {

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void spill(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out) throw std::runtime_error("cannot write " + path.string());
}

/// Bytes of a safetensors file: length, header as given, data.
inline std::string raw_safetensors(std::string_view header, std::string_view data = {}, std::uint64_t length = ~std::uint64_t{0}) {
  if (length == ~std::uint64_t{0}) length = header.size();
  std::string bytes(8, '\0');
  for (unsigned i = 0; i < 8; ++i) bytes[i] = static_cast<char>((length >> (8 * i)) & 0xffU);
  return bytes.append(header).append(data);
}

/// Runs `call` and returns the code of its input_error as a test value; fails if it does not throw one.
template <class Call>
void expect_input_error(input_error_code code, Call&& call, std::string_view mentioned = {}) {
  try {
    call();
    ADD_FAILURE() << "no error, expected code " << static_cast<int>(code);
  } catch (const input_error& problem) {
    EXPECT_EQ(static_cast<int>(problem.code()), static_cast<int>(code)) << problem.what();
    EXPECT_EQ(problem.category(), error_category::bad_input);
    EXPECT_NE(std::string_view(problem.what()).find(mentioned), std::string_view::npos) << problem.what();
  }
}

}  // namespace esft::test
