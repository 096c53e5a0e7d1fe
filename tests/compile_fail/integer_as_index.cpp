// SPDX-License-Identifier: Apache-2.0
// expect: (could not convert|cannot convert|no known conversion|no viable conversion)[^\n]*int
// A bare integer says neither layer nor expert: it must be written out.
#include <esft/core/strong_index.hpp>

void freeze(esft::expert_index);

void use() {
#ifdef ESFT_MUST_FAIL
  freeze(3);
#endif
  freeze(esft::expert_index{3});
}
