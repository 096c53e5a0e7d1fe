// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Integers of 128 bits, for products and sums that must not wrap. A name of their own, since ISO C++ has none (`-Wpedantic`).

namespace esft {

/// Signed, 128 bits; an extension of GCC and Clang on 64-bit machines.
__extension__ typedef __int128 int128;
/// Unsigned, 128 bits.
__extension__ typedef unsigned __int128 uint128;

}  // namespace esft
