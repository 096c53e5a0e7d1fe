// SPDX-License-Identifier: Apache-2.0
// expect: (required for the satisfaction of|does not satisfy) .(esft::)?selection_policy
// Each family's concept names itself when a type misses its member; here a policy that selects nothing.
#include <esft/selection/policy.hpp>

struct my_policy {
  static constexpr std::string_view name = "mine";
#ifndef ESFT_MUST_FAIL
  esft::expert_set select(const esft::score_table&) const { return {}; }
#endif
};

template <esft::selection_policy Policy>
void use(const Policy&) {}

void try_it() { use(my_policy{}); }
