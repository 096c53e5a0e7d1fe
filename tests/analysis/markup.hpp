// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A strict little reader of markup: it accepts well-formed XML elements and nothing that a lenient browser would forgive.

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace esft_test {

/// What is wrong with the markup; empty if nothing is.
inline std::string markup_fault(std::string_view text) {
  std::vector<std::string> open;
  std::size_t at = 0;
  const auto entity_fault = [](std::string_view run) -> std::string {
    for (std::size_t i = run.find('&'); i != std::string_view::npos; i = run.find('&', i + 1)) {
      const std::string_view entity = run.substr(i, run.find(';', i) - i + 1);
      if (entity != "&amp;" && entity != "&lt;" && entity != "&gt;" && entity != "&quot;" && entity != "&#39;")
        return "bare ampersand: " + std::string(run.substr(i, 20));
    }
    return {};
  };
  if (text.starts_with("<!DOCTYPE html>\n")) at = 16;
  while (at < text.size()) {
    const std::size_t tag = text.find('<', at);
    const std::string_view run = text.substr(at, tag - at);
    if (const auto fault = entity_fault(run); !fault.empty()) return fault;
    if (open.empty() && run.find_first_not_of(" \n") != std::string_view::npos) return "text outside the root";
    if (tag == std::string_view::npos) break;
    std::size_t i = tag + 1;
    const bool closing = text[i] == '/';
    if (closing) ++i;
    const std::size_t name_end = text.find_first_of(" />\n", i);
    if (name_end == std::string_view::npos || name_end == i) return "tag without a name";
    const std::string name(text.substr(i, name_end - i));
    if (!std::all_of(name.begin(), name.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= '1' && c <= '6'); }))
      return "strange tag: " + name;
    i = name_end;
    std::set<std::string> attributes;
    while (text[i] == ' ') {
      const std::size_t equals = text.find("=\"", i);
      const std::size_t end = text.find('"', equals + 2);
      if (equals == std::string_view::npos || end == std::string_view::npos) return "attribute of " + name + " is not quoted";
      const std::string attribute(text.substr(i + 1, equals - i - 1));
      if (attribute.find_first_of(" <>\"'") != std::string::npos) return "strange attribute in " + name + ": " + attribute;
      if (attribute.starts_with("on") || attribute == "href" || attribute == "src") return "active attribute: " + attribute;
      if (!attributes.insert(attribute).second) return "attribute twice in " + name + ": " + attribute;
      const std::string_view value = text.substr(equals + 2, end - equals - 2);
      if (value.find('<') != std::string_view::npos) return "< in an attribute of " + name;
      if (const auto fault = entity_fault(value); !fault.empty()) return fault;
      i = end + 1;
    }
    const bool empty = text[i] == '/';
    if (empty) ++i;
    if (text[i] != '>') return "tag not closed: " + name;
    if (closing) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes " + (open.empty() ? std::string("nothing") : open.back());
      open.pop_back();
    } else if (!empty) {
      open.push_back(name);
    }
    at = i + 1;
  }
  return open.empty() ? std::string() : "not closed: " + open.back();
}

/// How often `part` occurs.
inline std::size_t occurrences(std::string_view text, std::string_view part) {
  std::size_t count = 0;
  for (std::size_t i = text.find(part); i != std::string_view::npos; i = text.find(part, i + part.size())) ++count;
  return count;
}

}  // namespace esft_test
