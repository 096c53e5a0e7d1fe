// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Random documents for the data tests, each token telling which document and place it is from.

#include <esft/data/packing.hpp>

#include <vector>

#include <rapidcheck.h>

namespace data_test {

inline constexpr std::int32_t pad_id = 7;

/// Token i of document d is 1000 (d + 1) + i, so a misplaced token is recognised. Random marks; some documents are empty.
inline std::vector<esft::training_sample> random_samples(int most_documents = 12, int longest = 40) {
  std::vector<esft::training_sample> samples(static_cast<std::size_t>(*rc::gen::inRange(0, most_documents + 1)));
  for (std::size_t d = 0; d < samples.size(); ++d) {
    const auto size = static_cast<std::size_t>(*rc::gen::inRange(0, longest + 1));
    samples[d].learned = *rc::gen::container<std::vector<std::uint8_t>>(size, rc::gen::element<std::uint8_t>(0, 1));
    for (std::size_t i = 0; i < size; ++i) samples[d].tokens.push_back(static_cast<std::int32_t>(1000 * (d + 1) + i));
  }
  return samples;
}

inline esft::packing_options random_options() {
  return {.length = static_cast<std::size_t>(*rc::gen::inRange(1, 24)),
          .mode = *rc::gen::element(esft::packing_mode::whole, esft::packing_mode::split),
          .too_long = *rc::gen::element(esft::long_document::divide, esft::long_document::tail)};
}

/// The rows of a packing as one batch.
inline esft::token_batch assemble(const std::vector<esft::training_sample>& samples, const esft::packed_rows& rows) {
  esft::token_batch batch;
  for (std::size_t r = 0; r < rows.size(); ++r) esft::append_row(batch, samples, rows.row(r), rows.length(), pad_id);
  return batch;
}

inline bool same(const esft::token_batch& a, const esft::token_batch& b) {
  return a.tokens == b.tokens && a.labels == b.labels && a.position == b.position && a.key_begin == b.key_begin && a.sample == b.sample;
}

}  // namespace data_test
