// SPDX-License-Identifier: Apache-2.0
#include <esft/io.hpp>

#include <string>

std::string digest_in_another_unit(const std::string& text);

std::string digest_in_another_unit(const std::string& text) {
  const std::string compact = esft::write_json(esft::parse_json(text, "memory"), esft::json_layout::compact);
  return esft::sha256_hex(std::as_bytes(std::span(compact)));
}
