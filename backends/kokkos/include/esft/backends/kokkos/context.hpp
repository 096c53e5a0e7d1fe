// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What the members of one `kokkos_backend` share: the execution space instance, scratch memory that grows, launches, and marks of bad ids.

#include <esft/backends/kokkos/space.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <string>

namespace esft::detail::kokkos {

/// Scratch memory that ops of one instance use one after the other, by purpose.
enum class purpose : std::uint8_t { tiles, counts, list, numbers, rates, ranges, how_many };

/// What a kernel finds wrong and cannot throw.
enum class mark : int { none, token, label, expert };
[[nodiscard]] inline const char* sentence_of(mark which) {
  if (which == mark::token) return "a token id lies in [0, V)";
  if (which == mark::label) return "a label lies in [0, V)";
  return "routed ids lie in [0, E), or are no_expert";
}

/// Leaves a mark; who else finds something wrong at the same time leaves the same.
KOKKOS_INLINE_FUNCTION void leave_mark(int* bad, int which) { static_cast<void>(Kokkos::atomic_exchange(bad, which)); }

template <class U>
struct fill_element {
  U* to;
  U value;
  KOKKOS_FUNCTION void operator()(index i) const { to[i] = value; }
};
/// A function object of `for_each` as a kernel; each iteration has a copy, which it may change.
template <class Body>
struct for_each_element {
  Body body;
  KOKKOS_FUNCTION void operator()(index i) const {
    Body mine = body;
    mine(i);
  }
};

/// A size as `Kokkos::PerTeam` takes it: an int before Kokkos 4, std::size_t later.
struct scratch_size {
  std::size_t bytes;
  operator int() const { return static_cast<int>(bytes); }  // NOLINT(google-explicit-constructor)
  operator std::size_t() const { return bytes; }            // NOLINT(google-explicit-constructor)
};

template <class Execution>
struct context {
  using memory = typename Execution::memory_space;
  template <class U>
  using borrowed = Kokkos::View<U*, Kokkos::LayoutRight, memory, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  template <class U>
  using borrowed_host = Kokkos::View<U*, Kokkos::LayoutRight, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

  Execution execution;
  std::array<Kokkos::View<char*, memory>, static_cast<std::size_t>(purpose::how_many)> buffers;
  Kokkos::View<int, memory> bad;

  explicit context(const Execution& instance)
      : execution(instance), bad(Kokkos::view_alloc(std::string("esft bad id"), Kokkos::WithoutInitializing)) {
    Kokkos::deep_copy(execution, bad, 0);
  }

  /// Memory for `count` elements, whose earlier contents may be gone.
  template <class U>
  [[nodiscard]] U* scratch(purpose what, index count) {
    auto& buffer = buffers[static_cast<std::size_t>(what)];
    const std::size_t bytes = sizeof(U) * static_cast<std::size_t>(larger(count, index{1}));
    if (buffer.extent(0) < bytes) {
      execution.fence();  // what is queued may still use the old one
      buffer = {};
      buffer = Kokkos::View<char*, memory>(Kokkos::view_alloc(std::string("esft scratch"), Kokkos::WithoutInitializing), bytes + bytes / 4);
    }
    return reinterpret_cast<U*>(buffer.data());
  }

  /// `body(i)` for i in [0, count).
  template <class Body>
  void each(const char* label, index count, const Body& body) {
    if (count == 0) return;
    Kokkos::parallel_for(label, Kokkos::RangePolicy<Execution, Kokkos::IndexType<index>>(execution, 0, count), body);
  }
  /// `body(team)` for each of `count` teams, whose rank in the league says which. A core is a team of its own.
  template <class Body>
  void teams(const char* label, index count, const Body& body) {
    if (count == 0) return;
    using policy = Kokkos::TeamPolicy<Execution>;
    if constexpr (on_cores<Execution>) {
      Kokkos::parallel_for(label, policy(execution, static_cast<int>(count), 1, 1), body);
    } else {
      Kokkos::parallel_for(label, policy(execution, static_cast<int>(count), Kokkos::AUTO, vector_length()), body);
    }
  }
  /// The same with `bytes` of memory for each team.
  template <class Body>
  void teams_with(const char* label, index count, std::size_t bytes, const Body& body) {
    if (count == 0) return;
    using policy = Kokkos::TeamPolicy<Execution>;
    const auto ready = [&](policy p) { return p.set_scratch_size(scratch_level<Execution>(), Kokkos::PerTeam(scratch_size{bytes})); };
    if constexpr (on_cores<Execution>) {
      Kokkos::parallel_for(label, ready(policy(execution, static_cast<int>(count), 1, 1)), body);
    } else {
      Kokkos::parallel_for(label, ready(policy(execution, static_cast<int>(count), Kokkos::AUTO, vector_length())), body);
    }
  }
  /// A warp where there are warps.
  [[nodiscard]] static int vector_length() { return smaller(32, static_cast<int>(Kokkos::TeamPolicy<Execution>::vector_length_max())); }

  /// Waits, then says what kernels have marked. @throws contract_violation
  void wait() {
    execution.fence();
    int found = 0;
    Kokkos::deep_copy(execution, borrowed_host<int>(&found, 1), borrowed<int>(bad.data(), 1));
    execution.fence();
    if (found == 0) return;
    Kokkos::deep_copy(execution, bad, 0);
    throw contract_violation(std::string("kokkos_backend: ") + sentence_of(static_cast<mark>(found)));
  }
  /// After an op that may mark: where kernels have run by now, it throws at once; elsewhere the next call that waits does.
  void check_marks() {
    if constexpr (runs_at_once<Execution> && on_cores<Execution>) {
      if (*bad.data() != 0) wait();
    }
  }

  template <class U>
  void upload(U* to, const U* from, std::size_t count) {
    if (count == 0) return;
    Kokkos::deep_copy(execution, borrowed<U>(to, count), borrowed_host<const U>(from, count));
    execution.fence();  // the host's memory may go as soon as this returns
  }
  template <class U>
  void download(U* to, const U* from, std::size_t count) {
    if (count > 0) Kokkos::deep_copy(execution, borrowed_host<U>(to, count), borrowed<const U>(from, count));
    wait();
  }
  /// A short list of the host where kernels can read it.
  template <class U>
  [[nodiscard]] const U* list_there(std::span<const U> host) {
    if constexpr (runs_at_once<Execution> && on_cores<Execution>) {
      return host.data();
    } else {
      U* there = scratch<U>(purpose::list, static_cast<index>(host.size()));
      upload(there, host.data(), host.size());
      return there;
    }
  }
};

}  // namespace esft::detail::kokkos
