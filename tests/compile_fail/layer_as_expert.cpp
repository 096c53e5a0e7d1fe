// SPDX-License-Identifier: Apache-2.0
// expect: (could not convert|cannot convert|no known conversion|no viable conversion)[^\n]*layer_
// A layer number is not an expert number.
#include <esft/core/strong_index.hpp>

void freeze(esft::layer_index, esft::expert_index);

void use(esft::layer_index layer, esft::expert_index expert) {
#ifdef ESFT_MUST_FAIL
  freeze(layer, layer);
#endif
  freeze(layer, expert);
}
