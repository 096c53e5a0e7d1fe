// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Paths that come from files: a name may not lead outside its directory, not even through a symbolic link.

#include <esft/io/input_error.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

namespace esft {

namespace detail {

/// The directory inside which symbolic links of `directory` may point. A Hugging Face cache keeps
/// `models--org--name/snapshots/<revision>/file` as a link to `models--org--name/blobs/<digest>`: there the root is two levels up.
inline std::filesystem::path containment_root(const std::filesystem::path& canonical_directory) {
  const std::filesystem::path snapshots = canonical_directory.parent_path();
  const std::filesystem::path model = snapshots.parent_path();
  const bool is_cache = snapshots.filename() == "snapshots" && model.filename().string().starts_with("models--");
  return is_cache ? model : canonical_directory;
}

}  // namespace detail

/// The real path of file `name` of `directory`. @throws input_error `path_escape`, `cannot_open`
inline std::filesystem::path contained_path(const std::filesystem::path& directory, std::string_view name) {
  const input_place place{directory.string(), std::string(name), {}};
  const bool plain = !name.empty() && name != "." && name != ".." && std::none_of(name.begin(), name.end(), [](char character) {
    return character == '/' || character == '\\' || static_cast<unsigned char>(character) < 0x20U;
  });
  if (!plain) throw input_error(input_error_code::path_escape, place, "must be the plain name of a file in this directory");
  std::error_code failure;
  const std::filesystem::path base = std::filesystem::canonical(directory, failure);
  const std::filesystem::path target = failure ? base : std::filesystem::canonical(base / name, failure);
  if (failure)
    throw input_error(input_error_code::cannot_open, place, "cannot open: " + failure.message(), "check that the download is complete");
  const std::filesystem::path root = detail::containment_root(base);
  if (std::mismatch(root.begin(), root.end(), target.begin(), target.end()).first != root.end()) {
    throw input_error(input_error_code::path_escape, place, "is a symbolic link that leads outside " + root.string(), "copy the file here");
  }
  return target;
}

}  // namespace esft
