// SPDX-License-Identifier: Apache-2.0
// expect: (no known conversion|cannot convert|no viable conversion|could not convert)[^\n]*device_space
// The memory space is part of the type: a host backend does not take a view of device memory.
#include <esft/backend/reference_backend.hpp>

struct device_space {
  static constexpr bool host_accessible = false;
};
#ifdef ESFT_MUST_FAIL
using space = device_space;
#else
using space = esft::host_space;
#endif

void use(esft::reference_backend<float>& backend, esft::tensor_view<const float, 2, space> x, esft::host_view<float, 2> y) {
  backend.swiglu(x, y);
}
