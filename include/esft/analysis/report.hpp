// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `report`: a plain description of a page, and `render_html`, which makes one self-contained file of it.

#include <esft/analysis/text.hpp>
#include <esft/analysis/theme.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace esft {

/// A named value: "seed" - "7".
struct report_fact {
  std::string name;
  std::string value;
};

/// A table of printed values. Columns whose name begins a row (the first) are left-aligned, the others right-aligned.
struct report_table {
  std::vector<std::string> columns;            ///< with units: "state (bytes)"
  std::vector<std::vector<std::string>> rows;  ///< short rows are filled up with empty cells
  std::size_t text_columns = 1;                ///< leading columns that hold words, left-aligned
};

/// A chart with its caption and the numbers it was drawn from.
struct report_figure {
  std::string caption;
  std::vector<std::string> images;  ///< SVG made by this library, written as it is; several stand side by side
  report_table data;                ///< raw values; folded away when there are more than a few rows
};

/// Paragraphs of plain text.
struct report_prose {
  std::vector<std::string> paragraphs;
};

/// Lines that passed or failed.
struct report_checks {
  std::vector<std::pair<bool, std::string>> lines;
};

using report_block = std::variant<report_prose, report_table, report_figure, report_checks>;

struct report_section {
  std::string heading;
  std::vector<report_block> blocks;
};

/// A whole page. Every text is escaped; only `report_figure::images` is markup.
struct report {
  std::string title;
  std::string subtitle;
  std::vector<report_fact> facts;
  std::vector<report_section> sections;
};

namespace detail {

inline constexpr const char* report_style = R"(*{box-sizing:border-box}
body{margin:0;background:var(--surface);color:var(--ink);font:15px/1.55 system-ui,'Segoe UI','Liberation Sans','DejaVu Sans',sans-serif}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.8rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em}
h2{font-size:1.25rem;margin:2.8rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--grid)}
p{max-width:46rem;margin:.6rem 0}
.subtitle{color:var(--muted);margin:0 0 1.4rem}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.9rem 1.4rem;margin:1.2rem 0;padding:1rem 1.2rem;border:1px solid var(--grid);border-radius:8px}
.facts dt{color:var(--muted);font-size:.78rem}
.facts dd{margin:0;font-weight:600;overflow-wrap:anywhere}
figure{margin:1.4rem 0 1.8rem}
figcaption{max-width:46rem;margin:0 0 .6rem;font-weight:600}
.images{display:flex;flex-wrap:wrap;gap:1.4rem 2rem;overflow-x:auto}
svg{display:block;max-width:100%;height:auto}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .6rem;text-align:right;border-bottom:1px solid var(--grid);vertical-align:top}
td{white-space:nowrap}
td.long{white-space:normal;min-width:10rem;max-width:24rem;overflow-wrap:break-word}
th{color:var(--muted);font-weight:600;vertical-align:bottom}
.w{text-align:left}
td.w:first-child{font-weight:600}
details{margin:.6rem 0}
summary{cursor:pointer;color:var(--muted);font-size:.86rem}
.checks{list-style:none;padding:0;margin:.8rem 0}
.checks li{padding:.15rem 0 .15rem 1.7rem;text-indent:-1.7rem;overflow-wrap:anywhere}
.checks b{display:inline-block;width:1.7rem;text-indent:0}
.pass b{color:var(--series-2)}
.fail{font-weight:600}
.fail b{color:var(--mark)}
footer{margin-top:3rem;color:var(--muted);font-size:.8rem}
@page{size:A4;margin:16mm 14mm}
@media print{body{font-size:10pt}main{max-width:none;padding:0}figure,.facts,tr{break-inside:avoid}h2{break-after:avoid}
details::details-content{content-visibility:visible;block-size:auto}.scroll,.images{overflow:visible}.images svg:not(:only-child){width:46%}th,td{padding:.2rem .45rem}table{font-size:8.5pt}
.wide table{font-size:4.8pt}.wide th,.wide td{padding:.08rem .12rem}}
)";

inline std::string html_table(const report_table& table) {
  if (table.columns.empty() || table.rows.empty()) return {};
  const auto cell = [&](std::size_t column, std::string_view text) {
    if (column >= table.text_columns) return std::string();
    return std::string(character_count(text) > 28 ? " class=\"w long\"" : " class=\"w\"");
  };
  std::string out = std::string("<div class=\"scroll") + (table.columns.size() > 14 ? " wide" : "") + "\"><table><thead><tr>";
  for (std::size_t c = 0; c < table.columns.size(); ++c)
    out += "<th scope=\"col\"" + cell(c, {}) + ">" + escape_markup(table.columns[c]) + "</th>";
  out += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    out += "<tr>";
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
      const std::string text = c < row.size() ? row[c] : std::string();
      out += "<td" + cell(c, text) + ">" + escape_markup(text) + "</td>";
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

struct block_renderer {
  std::string operator()(const report_prose& prose) const {
    std::string out;
    for (const auto& paragraph : prose.paragraphs) out += "<p>" + escape_markup(paragraph) + "</p>\n";
    return out;
  }
  std::string operator()(const report_table& table) const { return html_table(table); }
  std::string operator()(const report_figure& figure) const {
    std::string out = "<figure><figcaption>" + escape_markup(figure.caption) + "</figcaption>\n<div class=\"images\">\n";
    for (const auto& image : figure.images) out += image;
    out += "</div></figure>\n";
    if (figure.data.rows.empty()) return out;
    const bool open = figure.data.rows.size() <= 12;
    return out + "<details" + (open ? " open=\"open\"" : "") + "><summary>Values (" + std::to_string(figure.data.rows.size()) +
           " rows)</summary>\n" + html_table(figure.data) + "</details>\n";
  }
  std::string operator()(const report_checks& checks) const {
    std::string out = "<ul class=\"checks\">\n";
    for (const auto& [passed, text] : checks.lines) {
      out += std::string("<li class=\"") + (passed ? "pass\"><b>\xe2\x9c\x93</b>" : "fail\"><b>\xe2\x9c\x97</b>") + escape_markup(text) +
             "</li>\n";
    }
    return out + "</ul>\n";
  }
};

}  // namespace detail

/// One HTML file: inline SVG, no script, nothing fetched, light or dark as the reader's system asks, printable on A4.
/// It is also well-formed XML. The same report gives the same bytes.
[[nodiscard]] inline std::string render_html(const report& page) {
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>" +
      escape_markup(page.title) + "</title>\n<style>\n" + theme::css() + detail::report_style + "</style></head>\n<body><main>\n<h1>" +
      escape_markup(page.title) + "</h1>\n";
  if (!page.subtitle.empty()) out += "<p class=\"subtitle\">" + escape_markup(page.subtitle) + "</p>\n";
  if (!page.facts.empty()) {
    out += "<dl class=\"facts\">\n";
    for (const auto& fact : page.facts)
      out += "<div><dt>" + escape_markup(fact.name) + "</dt><dd>" + escape_markup(fact.value) + "</dd></div>\n";
    out += "</dl>\n";
  }
  for (const auto& section : page.sections) {
    out += "<section><h2>" + escape_markup(section.heading) + "</h2>\n";
    for (const auto& block : section.blocks) out += std::visit(detail::block_renderer{}, block);
    out += "</section>\n";
  }
  return out + "<footer>Made by esft. This file needs no network and runs no script.</footer>\n</main></body></html>\n";
}

}  // namespace esft
