// SPDX-License-Identifier: Apache-2.0
// expect: stores<[^\n,]*, (std::)?int(32_t)?>. (is not satisfied|evaluated to false)
// Tensors of ids are part of the concept, as those of values and sums are.
#include <esft/backend/reference_backend.hpp>

#include <concepts>
#include <cstdint>

struct my_backend : esft::reference_backend<float> {
#ifdef ESFT_MUST_FAIL
  template <class T, std::size_t Rank>
    requires(!std::same_as<T, std::int32_t>)
  [[nodiscard]] esft::host_tensor<T, Rank> make_tensor(esft::extents<Rank> shape) {
    return esft::make_host_tensor<T, Rank>(shape);
  }
#endif
};

template <esft::moe_backend Backend>
void train_with(Backend&) {}

void use(my_backend& backend) { train_with(backend); }
