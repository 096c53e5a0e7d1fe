// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Tensors of ours as `Kokkos::View`s and the reverse, without a copy. Neither direction waits for queued work.

#include <esft/backends/kokkos/space.hpp>

#include <memory>
#include <utility>

namespace esft {

namespace detail::kokkos {
template <class T, std::size_t Rank>
struct pointer_of;
template <class T>
struct pointer_of<T, 1> {
  using type = T*;
};
template <class T>
struct pointer_of<T, 2> {
  using type = T**;
};
template <class T>
struct pointer_of<T, 3> {
  using type = T***;
};
template <class T>
struct pointer_of<T, 4> {
  using type = T****;
};
template <class Space>
struct kokkos_memory;
template <>
struct kokkos_memory<host_space> {
  using type = Kokkos::HostSpace;
};
template <class MemorySpace>
struct kokkos_memory<kokkos_space<MemorySpace>> {
  using type = MemorySpace;
};
}  // namespace detail::kokkos

/// The view that lends memory of ours to Kokkos: row-major, and nobody's to free.
template <class T, std::size_t Rank, memory_space Space>
using kokkos_view_t = Kokkos::View<typename detail::kokkos::pointer_of<T, Rank>::type, Kokkos::LayoutRight,
                                   typename detail::kokkos::kokkos_memory<Space>::type, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

/// Our memory as a `Kokkos::View`, for as long as its owner keeps it.
template <class T, std::size_t Rank, memory_space Space>
[[nodiscard]] kokkos_view_t<T, Rank, Space> kokkos_view_of(tensor_view<T, Rank, Space> given) {
  static_assert(Rank >= 1 && Rank <= 4, "one to four dimensions");
  using result = kokkos_view_t<T, Rank, Space>;
  const auto n = [&](std::size_t d) { return static_cast<std::size_t>(given.extent(d)); };
  if constexpr (Rank == 1) return result(given.data(), n(0));
  if constexpr (Rank == 2) return result(given.data(), n(0), n(1));
  if constexpr (Rank == 3) return result(given.data(), n(0), n(1), n(2));
  if constexpr (Rank == 4) return result(given.data(), n(0), n(1), n(2), n(3));
}

namespace detail::kokkos {
template <class View>
extents<static_cast<std::size_t>(View::rank)> shape_of(const View& given) {
  constexpr auto rank = static_cast<std::size_t>(View::rank);
  constexpr bool right = std::is_same_v<typename View::array_layout, Kokkos::LayoutRight>;
  constexpr bool left_vector = rank == 1 && std::is_same_v<typename View::array_layout, Kokkos::LayoutLeft>;
  static_assert(right || left_vector, "esft reads row-major memory: give the Kokkos::View LayoutRight");
  extents<rank> shape{};
  for (std::size_t d = 0; d < rank; ++d) shape[d] = static_cast<index>(given.extent(d));
  ESFT_EXPECTS(given.span() == given.size(), "a Kokkos::View without gaps: copy a sub-view before it is given to esft");
  return shape;
}
}  // namespace detail::kokkos

namespace detail::kokkos {
template <class Space, class View>
auto lend(const View& given) {
  return tensor_view<typename View::value_type, static_cast<std::size_t>(View::rank), Space>(given.data(), shape_of(given));
}
template <class Space, class View>
auto share(const View& given) {
  using element = typename View::value_type;
  static_assert(!std::is_const_v<element>, "an owner may write; lend a view of const elements with view_of_kokkos");
  const auto shape = shape_of(given);
  auto held = std::make_unique<View>(given);
  return tensor<element, static_cast<std::size_t>(View::rank), Space>(
      given.data(), shape, [](void* context, void*) { delete static_cast<View*>(context); }, held.release());
}
/// The memory space of a backend's tensors, for memory of another one that its kernels reach.
template <class Backend, class View>
struct reached {
  static_assert(Kokkos::SpaceAccessibility<typename Backend::execution_space, typename View::memory_space>::accessible,
                "kernels of this backend cannot reach the memory of this Kokkos::View: copy it to a view in the backend's memory space");
  using type = typename Backend::memory_space;
};
}  // namespace detail::kokkos

/// A `Kokkos::View` as our view: no copy, and no share in its ownership. LayoutRight, or one dimension.
/// @throws contract_violation for a view with gaps between its rows
template <class View>
[[nodiscard]] auto view_of_kokkos(const View& given) {
  return detail::kokkos::lend<kokkos_memory_t<typename View::memory_space>>(given);
}
/// The same for ops of a backend whose own memory space is another, where its kernels reach the view's: managed (UVM) and pinned memory
/// on a GPU. @throws as `view_of_kokkos`
template <class Backend, class View>
[[nodiscard]] auto view_of_kokkos_for(const View& given) {
  return detail::kokkos::lend<typename detail::kokkos::reached<Backend, View>::type>(given);
}

/// A `Kokkos::View` as our owner: it holds a reference until it goes, as every copy of the view does. @throws as `view_of_kokkos`
template <class View>
[[nodiscard]] auto tensor_of_kokkos(const View& given) {
  return detail::kokkos::share<kokkos_memory_t<typename View::memory_space>>(given);
}
/// The same for ops of a backend whose own memory space is another, as `view_of_kokkos_for`.
template <class Backend, class View>
[[nodiscard]] auto tensor_of_kokkos_for(const View& given) {
  return detail::kokkos::share<typename detail::kokkos::reached<Backend, View>::type>(given);
}

}  // namespace esft
