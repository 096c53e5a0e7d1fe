// SPDX-License-Identifier: Apache-2.0
// Dispatches four slots on the reference backend: needs nothing but the installed headers and a C++20 compiler.
#include <esft/backend/reference_backend.hpp>
#include <esft/core/config.hpp>

#include <array>
#include <cstdint>

#ifdef CONSUMER_WITH_EIGEN
bool eigen_adds();
#else
static bool eigen_adds() { return true; }
#endif

int main() {
  esft::reference_backend<float> backend;
  const std::array<std::int32_t, 4> ids{2, 0, 0, 1};  // [T, K] = [2, 2]
  std::array<std::int32_t, 4> offsets{};              // [E + 1]
  std::array<std::int32_t, 4> row_slot{};
  std::array<std::int32_t, 4> slot_row{};
  backend.dispatch({ids.data(), {2, 2}}, {offsets.data(), {4}}, {row_slot.data(), {4}}, {slot_row.data(), {2, 2}});
  const bool sorted = offsets == std::array<std::int32_t, 4>{0, 2, 3, 4} && row_slot == std::array<std::int32_t, 4>{1, 2, 3, 0};
  return sorted && eigen_adds() && ESFT_VERSION_MAJOR == 0 ? 0 : 1;
}
