// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Member reflection of plain structs through Boost.Hana: one visit yields every member with its name.

#if !__has_include(<boost/hana/accessors.hpp>)
#error "esft: layers, models and parameter structs need the headers of Boost.Hana (Debian: libboost1.81-dev; CMake: link esft::boost)."
#endif

#include <boost/hana/accessors.hpp>
#include <boost/hana/adapt_struct.hpp>
#include <boost/hana/core/to.hpp>
#include <boost/hana/first.hpp>
#include <boost/hana/for_each.hpp>
#include <boost/hana/second.hpp>
#include <boost/hana/define_struct.hpp>

#include <string_view>
#include <type_traits>
#include <utility>

/// Declares the members of a struct and shows them to `esft::for_each_member`. Inside the struct:
/// `ESFT_DEFINE_STRUCT(name_of_the_struct, (type, member), ...);`
#define ESFT_DEFINE_STRUCT(...) BOOST_HANA_DEFINE_STRUCT(__VA_ARGS__)

namespace esft {

/// Calls `visit(name, member)` for each adapted member of `object`, in declaration order.
template <class Struct, class Visit>
constexpr void for_each_member(Struct&& object, Visit&& visit) {
  using plain = std::remove_cvref_t<Struct>;
  boost::hana::for_each(boost::hana::accessors<plain>(), [&](auto pair) {
    visit(std::string_view(boost::hana::to<const char*>(boost::hana::first(pair))), boost::hana::second(pair)(object));
  });
}

}  // namespace esft
