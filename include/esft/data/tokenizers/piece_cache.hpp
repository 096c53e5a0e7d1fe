// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `piece_cache`: ids of pieces seen before; words repeat, and merging one costs far more than looking it up.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// A fixed number of places, each for the last piece that hashed to it. One thread at a time uses it; another one goes without, because
/// waiting costs more than merging. A copy begins empty.
class piece_cache {
 public:
  piece_cache() = default;
  piece_cache(const piece_cache&) {}
  piece_cache& operator=(const piece_cache&) { return *this; }

  /// The cache for the time of one text, or nothing while another thread has it.
  class access {
   public:
    explicit access(piece_cache& cache) : lock_(cache.mutex_, std::try_to_lock), cache_(cache) {
      if (lock_ && cache.entries_.empty()) cache.entries_.resize(places);
    }
    /// Appends the ids of `piece` to `out`: those of last time, or what `make(ids)` makes.
    template <class Make>
    void append(std::string_view piece, std::vector<std::int32_t>& out, Make&& make) {
      if (!lock_ || piece.size() > longest) {
        std::vector<std::int32_t> ids;
        make(ids);
        out.insert(out.end(), ids.begin(), ids.end());
        return;
      }
      entry& place = cache_.entries_[std::hash<std::string_view>{}(piece) % places];
      if (place.piece != piece) {
        place.ids.clear();
        place.piece.clear();  // should `make` throw, the place holds nothing
        make(place.ids);
        place.piece = piece;
      }
      out.insert(out.end(), place.ids.begin(), place.ids.end());
    }

   private:
    std::unique_lock<std::mutex> lock_;
    piece_cache& cache_;
  };

 private:
  static constexpr std::size_t places = 1U << 15U;
  static constexpr std::size_t longest = 64;
  struct entry {
    std::string piece;  ///< empty: free; no piece is empty
    std::vector<std::int32_t> ids;
  };
  std::mutex mutex_;
  std::vector<entry> entries_;
};

}  // namespace esft
