// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// How a grouped product of bf16 matrices is cut into tasks, and which rows are packed once for several of them.

#include <esft/backends/eigen/amx.hpp>
#include <esft/backends/eigen/bf16_packing.hpp>
#include <esft/backends/eigen/block_cache.hpp>
#include <esft/backends/eigen/machine.hpp>

#include <algorithm>
#include <vector>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// Rows of one group against strips of 32 results of its matrix.
struct strip_task {
  row_group rows;
  index strip_begin = 0;
  index strip_end = 0;
  index packed = -1;  ///< where the packed rows begin in the buffer of the op; -1: the task packs them for itself
  double seconds = 0;
};

/// Up to 48 rows packed together.
struct row_panel {
  index first = 0;
  index count = 0;
  index packed = 0;
};

/// The tasks of one op, the longest first, and the panels to be packed before.
struct strip_tasks {
  std::vector<strip_task> tasks;
  std::vector<row_panel> panels;
  index rows = 0;
  index packed_size = 0;
  double operations = 0;
};

constexpr index padded_rows(index rows) noexcept { return (rows + 15) / 16 * 16; }
constexpr index round_to(index value, index step) noexcept { return (value + step - 1) / step * step; }
/// `total` in equal parts of at most `most`.
constexpr index equal_part(index total, index most) noexcept {
  const index parts = std::max<index>(1, (total + most - 1) / most);
  return (total + parts - 1) / parts;
}

/// Rows in panels of three tiles of 16 rows and of two, the wider first; one tile is a panel for itself.
class panel_cut {
 public:
  explicit constexpr panel_cut(index rows) noexcept : rows_(rows), count_((rows + panel_side - 1) / panel_side) {
    wide_ = std::max<index>(0, padded_rows(rows) / 16 - 2 * count_);
  }
  [[nodiscard]] constexpr index count() const noexcept { return count_; }
  /// The first row of panel `p`.
  [[nodiscard]] constexpr index begin(index p) const noexcept { return 32 * p + 16 * std::min(p, wide_); }
  [[nodiscard]] constexpr index rows(index p) const noexcept { return std::min(rows_, begin(p + 1)) - begin(p); }

 private:
  index rows_;
  index count_;
  index wide_ = 0;  ///< panels of three tiles
};

/// Rows of every group in equal parts whose packed form, `depth` elements a row, is at most about `kept` elements.
inline std::vector<row_group> cut_rows(const std::vector<row_group>& groups, index depth, index kept) {
  const index most_rows = std::clamp<index>(kept / std::max<index>(1, depth) / block_side, 4, 16) * block_side;
  std::vector<row_group> result;
  for (const row_group& group : groups) {
    if (group.rows() <= 0) continue;
    const index part = round_to(equal_part(group.rows(), most_rows), block_side);
    for (index r = group.begin; r < group.end; r += part) result.push_back({r, std::min(group.end, r + part), group.matrix});
  }
  return result;
}

/// Cuts groups into tasks. Rows are cut so that their packed form, at most `kept` elements, stays in the second-level cache; strips so
/// that threads finish together. Each strip stands for `repeats` of the weight. A cut never changes a sum: each runs along the whole
/// `depth` in order.
inline strip_tasks cut_strips(const std::vector<row_group>& groups, index strips, index depth, index parts, int threads, index repeats = 1,
                              index kept = 512 * 1024) {
  constexpr double flops = 1.4e12;  // of one core; these two only shape tasks
  constexpr double bytes = 12e9;
  strip_tasks result;
  double total = 0;
  if (strips == 0) return result;
  for (const row_group& rows : cut_rows(groups, depth * parts, kept)) {
    const double operations = 64.0 * static_cast<double>(padded_rows(rows.rows()) * depth * parts * repeats);
    const double loading = 64.0 * static_cast<double>(depth * repeats) / bytes;
    const double seconds = std::max(operations / flops, loading) * static_cast<double>(strips);
    result.tasks.push_back({rows, 0, strips, -1, seconds});
    result.rows += rows.rows();
    result.operations += operations * static_cast<double>(strips);
    total += seconds;
  }
  const double longest = std::clamp(total / (16.0 * threads), 1e-4, 4e-3);
  std::vector<strip_task> whole;
  whole.swap(result.tasks);
  for (const strip_task& chunk : whole) {
    const index wanted =
        threads == 1 ? strips : std::max<index>(1, static_cast<index>(longest / chunk.seconds * static_cast<double>(strips)));
    const index part = equal_part(strips, wanted);
    index packed = -1;
    if (part < strips) {
      packed = result.packed_size;
      const panel_cut panels(chunk.rows.rows());
      for (index p = 0; p < panels.count(); ++p) {
        result.panels.push_back({chunk.rows.begin + panels.begin(p), panels.rows(p), packed + panels.begin(p) * depth * parts});
      }
      result.packed_size += padded_rows(chunk.rows.rows()) * depth * parts;
    }
    for (index s = 0; s < strips; s += part) {
      const index end = std::min(strips, s + part);
      result.tasks.push_back({chunk.rows, s, end, packed, chunk.seconds * static_cast<double>(end - s) / static_cast<double>(strips)});
    }
  }
  std::stable_sort(result.tasks.begin(), result.tasks.end(),
                   [](const strip_task& a, const strip_task& b) { return a.seconds > b.seconds; });
  return result;
}

/// One more step of the reduction of every strip, from operands of its own: none without blocks. @shape blocks [strips][32 x 32], rows: as
/// the other operand of the product is packed, 32 elements a row
struct added_step {
  const bf16* blocks = nullptr;
  const bf16* rows = nullptr;
};

/// A buffer of bf16 for one op, shared by its tasks.
inline host_tensor<bf16, 1> packed_buffer(index size) { return make_cached_tensor<bf16, 1>({size}); }

/// A buffer of bf16 of one thread.
inline bf16* thread_buffer(machine& m, int slot, buffer which, index size) {
  return reinterpret_cast<bf16*>(m.of(slot)(which, (size + 1) / 2));
}

/// The share of panel `p` of `panels` in fetching a strip of 32 rows of the weight, over the steps of a reduction of `depth`.
inline look_ahead share_of(const bf16* next, index depth, index p, index panels) noexcept {
  if (next == nullptr) return {};
  constexpr index places = 8;  // measured: 8 places of 4 lines are up to 1.4 times as fast as 32 of one, or one of 32
  constexpr index lines = block_side / places;
  const index apart = 64 * lines * (depth / block_side);
  const index begin = p * places / panels;
  return {reinterpret_cast<const char*>(next) + begin * apart, apart, (p + 1) * places / panels - begin, lines};
}

#endif

}  // namespace esft::detail::eigen
