// SPDX-License-Identifier: Apache-2.0
// expect: (cannot convert|could not convert|no viable conversion|no known conversion)[^\n]*(tensor_view|host_view)<const float
// A view of const elements never becomes a view of mutable ones: frozen weights stay frozen.
#include <esft/backend/tensor.hpp>

void overwrite(esft::host_view<float, 2>);

#ifdef ESFT_MUST_FAIL
void use(esft::host_view<const float, 2> weights) { overwrite(weights); }
#else
void use(esft::host_view<float, 2> weights) { overwrite(weights); }
#endif
