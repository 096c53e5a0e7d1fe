// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft tokenize`: lines of text to lines of token ids and back, by the tokenizer of a model.

#include "../command.hpp"
#include "../console.hpp"

#include <esft/io/json.hpp>
#include <esft/train/open_tokenizer.hpp>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace esft::tool {
namespace {

struct tokenize_options {
  std::filesystem::path tokenizer;
  bool decode = false;
  bool framed = false;
  bool json_lines = false;
};

std::vector<std::int32_t> ids_of_line(const std::string& line, std::size_t number) {
  std::vector<std::int32_t> ids;
  const char* const end = line.data() + line.size();
  for (const char* at = line.data(); at != end;) {
    if (*at == ' ') {
      ++at;
      continue;
    }
    std::int32_t id = 0;
    const auto [after, problem] = std::from_chars(at, end, id);
    if (problem != std::errc{} || id < 0) {
      throw input_error(input_error_code::bad_record, {"standard input, line " + std::to_string(number), {}, {}},
                        "is no list of token ids", "write ids with spaces between them");
    }
    ids.push_back(id);
    at = after;
  }
  return ids;
}

std::string text_of_line(const std::string& line, bool json, std::size_t number) {
  if (!json) return line;
  const std::string place = "standard input, line " + std::to_string(number);
  const json_value tree = parse_json(line, place);
  return json_reader(tree, place).string();
}

void tokenize(const tokenize_options& options) {
  const bool is_directory = std::filesystem::is_directory(options.tokenizer);
  const bpe_tokenizer words = open_tokenizer_file(is_directory ? options.tokenizer / "tokenizer.json" : options.tokenizer);
  std::string line;
  for (std::size_t number = 1; std::getline(std::cin, line); ++number) {
    std::string result;
    if (options.decode) {
      result = words.decode(ids_of_line(line, number));
      if (options.json_lines && find_invalid_utf8(result) != std::string::npos) {
        throw input_error(input_error_code::bad_utf8, {"standard input, line " + std::to_string(number), {}, {}}, "the ids cut a character",
                          "leave out --json-lines to get the bytes");
      }
      if (options.json_lines) result = write_json(result, json_layout::compact);
    } else {
      const std::string text = text_of_line(line, options.json_lines, number);
      for (const std::int32_t id : options.framed ? words.encode_framed(text) : words.encode(text)) {
        if (!result.empty()) result += ' ';
        result += std::to_string(id);
      }
    }
    result += '\n';
    std::fwrite(result.data(), 1, result.size(), stdout);
  }
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto options = std::make_shared<tokenize_options>();
  CLI::App* command = app.add_subcommand("tokenize", "Turn lines of standard input into token ids, or back");
  command->add_option("--tokenizer", options->tokenizer, "tokenizer.json, or the model directory that holds it")->required();
  command->add_flag("--decode", options->decode, "lines are ids, the output is text");
  command->add_flag("--framed", options->framed, "with what the tokenizer itself puts before and after a text");
  command->add_flag("--json-lines", options->json_lines, "texts are JSON strings, so that they can hold newlines");
  command->callback([options] { tokenize(*options); });
}

}  // namespace esft::tool
