// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `type_list`: the explicit list of built-in models of a concept. One line there gives the tool's flag and the law suite.

#include <cstddef>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>

namespace esft {

/// A compile-time list of types that models of one concept; each has `static constexpr std::string_view name`.
template <class... Types>
struct type_list {
  static constexpr std::size_t size = sizeof...(Types);
  using variant = std::variant<Types...>;
  template <class... More>
  using append = type_list<Types..., More...>;

  /// Calls `visit.template operator()<T>()` for each type in order.
  template <class Visit>
  static constexpr void for_each(Visit&& visit) {
    (visit.template operator()<Types>(), ...);
  }
};

/// Calls `visit.template operator()<T>()` for the type whose `name` equals `wanted`; false if there is none.
template <class... Types, class Visit>
constexpr bool visit_by_name(type_list<Types...>, std::string_view wanted, Visit&& visit) {
  return ((Types::name == wanted ? (visit.template operator()<Types>(), true) : false) || ...);
}

}  // namespace esft
