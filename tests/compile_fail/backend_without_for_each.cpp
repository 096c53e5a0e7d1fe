// SPDX-License-Identifier: Apache-2.0
// expect: for_each[^\n]*(is invalid|is ill-formed|would be invalid)
// The loop that routers, biases and optimizers are written in is part of the concept: without it the refusal is here, not inside a router.
#include <esft/backend/reference_backend.hpp>

struct my_backend : esft::reference_backend<float> {
#ifdef ESFT_MUST_FAIL
  void for_each() = delete;  // hides the inherited loop
#endif
};

template <esft::moe_backend Backend>
void train_with(Backend&) {}

void use(my_backend& backend) { train_with(backend); }
