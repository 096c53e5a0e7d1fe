// SPDX-License-Identifier: Apache-2.0
// expect: (required for the satisfaction of|does not satisfy) .(esft::)?peft_plan
// A plan has a name: the word on the command line and in reports.
#include <esft/peft/plan.hpp>

struct my_plan {
#ifndef ESFT_MUST_FAIL
  static constexpr std::string_view name = "mine";
#endif
  esft::trainable_set trainable(const esft::parameter_inventory&) const { return {}; }
};

template <esft::peft_plan Plan>
void use(const Plan&) {}

void try_it() { use(my_plan{}); }
