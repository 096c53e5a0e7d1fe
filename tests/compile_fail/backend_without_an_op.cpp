// SPDX-License-Identifier: Apache-2.0
// expect: (required for the satisfaction of|does not satisfy) .(esft::)?moe_backend
// A type that lacks one primitive is no moe_backend, and the compiler says which concept it missed.
#include <esft/backend/reference_backend.hpp>

struct my_backend : esft::reference_backend<float> {
#ifdef ESFT_MUST_FAIL
  void swiglu() = delete;  // hides the inherited op
#endif
};

template <esft::moe_backend Backend>
void train_with(Backend&) {}

void use(my_backend& backend) { train_with(backend); }
