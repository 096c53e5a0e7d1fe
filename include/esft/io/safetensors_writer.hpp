// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// safetensors writer: streams tensors from their sources into one file that appears whole or not at all.

#include <esft/core/contract.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json_value.hpp>
#include <esft/io/safetensors_reader.hpp>
#include <esft/io/sha256.hpp>
#include <esft/io/tensor_record.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// Takes successive bytes of a tensor.
using byte_sink = std::function<void(std::span<const std::byte>)>;

/// A tensor to be written: what it is, and a way to get its bytes. Nothing is copied; what it refers to must outlive the write.
struct tensor_source {
  std::string name;
  dtype type{};
  tensor_shape shape;
  std::function<void(const byte_sink&)> write;  ///< hands all bytes, in order, in pieces of any size
};

/// A source whose bytes lie in memory.
inline tensor_source memory_source(std::string name, dtype type, tensor_shape shape, std::span<const std::byte> bytes) {
  return {std::move(name), type, std::move(shape), [bytes](const byte_sink& sink) { sink(bytes); }};
}

/// A source whose bytes lie in another safetensors file. `file` must outlive the write.
inline tensor_source file_source(const safetensors_file& file, const tensor_record& record) {
  return {record.name, record.type, record.shape, [&file, record](const byte_sink& sink) { file.for_each_chunk(record, sink); }};
}

/// Metadata key under which `write_safetensors` leaves the digest of the file, when asked to.
inline constexpr std::string_view file_digest_key = "esft.sha256";

/// Whether the file carries its own SHA-256, for files that are read back by ourselves.
enum class self_digest : std::uint8_t { none, in_metadata };

namespace detail {

/// Digest in a file that contains it: computed with this text in its place.
inline const std::string& digest_placeholder() {
  static const std::string zeros(64, '0');
  return zeros;
}

/// Largest element first, then by name: the order of the reference writer, so that equal content gives equal bytes.
inline std::vector<const tensor_source*> canonical_order(std::span<const tensor_source> sources) {
  std::vector<const tensor_source*> order;
  for (const tensor_source& source : sources) order.push_back(&source);
  std::sort(order.begin(), order.end(), [](const tensor_source* a, const tensor_source* b) {
    if (size_of(a->type) != size_of(b->type)) return size_of(a->type) > size_of(b->type);
    return a->name < b->name;
  });
  return order;
}

inline std::string safetensors_header(std::span<const tensor_source* const> order, const std::map<std::string, std::string>& metadata) {
  json_value root = json_object();
  if (!metadata.empty()) {
    json_value entries = json_object();
    for (const auto& [key, value] : metadata) entries.add(key, value);
    root.add("__metadata__", std::move(entries));
  }
  checked_size offset = 0;
  for (const tensor_source* source : order) {
    json_value shape = json_array();
    for (const index extent : source->shape) shape.push(extent);
    const checked_size end = offset + byte_size(source->shape, source->type);
    json_value entry = json_object();
    entry.add("dtype", safetensors_name(source->type)).add("shape", std::move(shape));
    entry.add("data_offsets", json_value::array{offset.value(), end.value()});
    root.add(source->name, std::move(entry));
    offset = end;
  }
  std::string header = write_json(root, json_layout::compact);
  header.append((8 - header.size() % 8) % 8, ' ');  // data starts at a multiple of 8
  return header;
}

}  // namespace detail

/// Writes tensors to `path`, in canonical order whatever their order here: equal content gives an equal file.
/// @throws storage_error; the old file is then intact
/// @pre names are distinct UTF-8, at most `tensor_rank_limit` dimensions, each source hands exactly the bytes of its shape
/// @cost memory: the header and what the sources themselves hold
inline void write_safetensors(const std::filesystem::path& path, std::span<const tensor_source> sources,
                              std::map<std::string, std::string> metadata = {}, self_digest digest = self_digest::none) {
  if (digest == self_digest::in_metadata) metadata.insert_or_assign(std::string(file_digest_key), detail::digest_placeholder());
  std::map<std::string_view, int> names;
  for (const tensor_source& source : sources) {
    ESFT_EXPECTS(++names[source.name] == 1, "tensor names are distinct");
    ESFT_EXPECTS(source.name != "__metadata__", "this name is taken by the format");
    ESFT_EXPECTS(source.shape.size() <= tensor_rank_limit, "a tensor has at most 8 dimensions");
    ESFT_EXPECTS(byte_size(source.shape, source.type).valid(), "extents are not negative and the size fits 64 bits");
  }
  const std::vector<const tensor_source*> order = detail::canonical_order(sources);
  const std::string header = detail::safetensors_header(order, metadata);
  ESFT_EXPECTS(header.size() <= safetensors_header_limit, "the header stays below the format's limit");

  atomic_file_writer writer(path);
  sha256 hash;
  writer.write(store_little_endian(static_cast<std::uint64_t>(header.size())));
  writer.write(header);
  if (digest == self_digest::in_metadata) hash.update(header);
  for (const tensor_source* source : order) {
    const std::uint64_t end = writer.size() + byte_size(source->shape, source->type).value();
    source->write([&](std::span<const std::byte> bytes) {
      ESFT_EXPECTS(bytes.size() <= end - writer.size(), "a source hands no more bytes than its shape takes");
      writer.write(bytes);
      if (digest == self_digest::in_metadata) hash.update(bytes);
    });
    ESFT_EXPECTS(writer.size() == end, "a source hands as many bytes as its shape takes");
  }
  if (digest == self_digest::in_metadata) {
    const std::size_t at = header.find('"' + std::string(file_digest_key) + "\":\"");
    writer.patch(8 + at + file_digest_key.size() + 4, hash.hex_digest());
  }
  writer.commit();
}

/// Checks a file against the digest it carries. @throws input_error `digest_mismatch`, also when it carries none
/// @cost reads the whole file
inline void verify_self_digest(const safetensors_file& file) {
  const input_place place{file.path().string(), {}, {}};
  const auto stored = file.metadata().find(std::string(file_digest_key));
  if (stored == file.metadata().end()) throw input_error(input_error_code::digest_mismatch, place, "the file carries no SHA-256 of itself");
  std::string header = file.header_text();
  const std::size_t at = header.find('"' + std::string(file_digest_key) + "\":\"" + stored->second + '"');
  sha256 hash;
  if (at != std::string::npos && stored->second.size() == 64) {
    header.replace(at + file_digest_key.size() + 4, 64, detail::digest_placeholder());
  }
  hash.update(header);
  std::vector<const tensor_record*> order;
  for (const tensor_record& record : file.tensors()) order.push_back(&record);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->begin < b->begin; });
  for (const tensor_record* record : order) file.for_each_chunk(*record, [&](std::span<const std::byte> bytes) { hash.update(bytes); });
  if (hash.hex_digest() != stored->second) {
    throw input_error(input_error_code::digest_mismatch, place, "the bytes are not those that were written (SHA-256 differs)",
                      "the file is damaged: use the one before it");
  }
}

}  // namespace esft
