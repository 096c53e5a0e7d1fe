// SPDX-License-Identifier: Apache-2.0
#include "weights.hpp"
#include "random.hpp"

#include <cmath>
#include <map>
#include <tuple>
#include <type_traits>

namespace esft::bench {
namespace {

/// Everything that exists for one shape.
struct residents {
  std::unique_ptr<layer_parameters<float>> float_layer;
  std::unique_ptr<layer_parameters<bf16>> bf16_layer;
  host_tensor<float, 3> float_rows[2];
  host_tensor<bf16, 3> bf16_rows[2];
  std::map<std::tuple<baseline, element, matrix>, std::unique_ptr<expert_loop>> loops;
};

residents& of(const layer_shape& shape) {
  static const char* current = nullptr;
  static residents now;
  if (current != shape.name) {
    now = {};
    current = shape.name;
  }
  return now;
}

extents<3> shape_of(const layer_shape& s, matrix which) {
  return which == matrix::gate_up ? extents<3>{s.experts, 2 * s.inner, s.width} : extents<3>{s.experts, s.width, s.inner};
}

template <class T>
const host_tensor<T, 3>& rows_of(const layer_shape& shape, matrix which) {
  auto& r = of(shape);
  host_tensor<T, 3>* made = nullptr;
  if constexpr (std::is_same_v<T, float>) {
    made = &r.float_rows[static_cast<int>(which)];
  } else {
    made = &r.bf16_rows[static_cast<int>(which)];
  }
  const auto extents = shape_of(shape, which);
  if (made->empty()) *made = random_tensor<T>(extents, 7 + static_cast<std::uint64_t>(which), 1 / std::sqrt(static_cast<float>(extents[2])));
  return *made;
}

}  // namespace

template <class T>
layer_parameters<T>& layer_weights(const layer_shape& s) {
  auto& r = of(s);
  std::unique_ptr<layer_parameters<T>>* made = nullptr;
  if constexpr (std::is_same_v<T, float>) {
    made = &r.float_layer;
  } else {
    made = &r.bf16_layer;
  }
  if (*made) return **made;
  *made = std::make_unique<layer_parameters<T>>();
  eigen_backend<T> backend(1);
  // Independent random values are as random in any order, so the layout of the weights need not be known here.
  const auto fill = [&](auto& weight, auto extents, std::uint64_t seed) {
    allocate(backend, weight, extents);
    fill_random(weight.value.data(), weight.value.size(), seed, 1 / std::sqrt(static_cast<float>(extents.back())));
  };
  fill((*made)->router, extents<2>{s.experts, s.width}, 1);
  fill((*made)->gate_up, shape_of(s, matrix::gate_up), 2);
  fill((*made)->down, shape_of(s, matrix::down), 3);
  return **made;
}
template layer_parameters<float>& layer_weights<float>(const layer_shape&);
template layer_parameters<bf16>& layer_weights<bf16>(const layer_shape&);

const void* row_major_weights(const layer_shape& shape, element type, matrix which) {
  if (type == element::bf16) return rows_of<bf16>(shape, which).data();
  return rows_of<float>(shape, which).data();
}

expert_loop* baseline_weights(const layer_shape& shape, baseline library, element type, matrix which) {
  const auto [entry, is_new] = of(shape).loops.try_emplace({library, type, which});
  if (is_new) {
    const auto [experts, n, k] = shape_of(shape, which);
    const expert_stack stack{experts, n, k, type == element::bf16, row_major_weights(shape, type, which)};
    if (library == baseline::eigen) entry->second = eigen_loop(stack);
#if defined(ESFT_BENCH_ONEDNN)
    if (library == baseline::onednn) entry->second = onednn_loop(stack);
#endif
#if defined(ESFT_BENCH_OPENBLAS)
    if (library == baseline::openblas) entry->second = openblas_loop(stack);
#endif
  }
  return entry->second.get();
}

}  // namespace esft::bench
