// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Plain-loop AdamW on compact state. @source I. Loshchilov, F. Hutter, arXiv 1711.05101, algorithm 2

#include <esft/backend/backend.hpp>

#include <cmath>

namespace esft::reference {

/// One AdamW update of N trained elements.
/// @eq m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w -= lr (m^ / (sqrt(v^) + eps) + wd w)
/// @shape weight, master, m, v, gradient [N]
template <class T>
void adamw(host_view<T, 1> weight, host_view<accumulate_t<T>, 1> master, host_view<accumulate_t<T>, 1> m, host_view<accumulate_t<T>, 1> v,
           host_view<const accumulate_t<T>, 1> gradient, const adamw_step& step) {
  ESFT_EXPECTS(weight.size() == master.size() && weight.size() == m.size() && weight.size() == v.size() && weight.size() == gradient.size(),
               "weight, master, both moments and the gradient have equally many elements");
  using sum_type = accumulate_t<T>;
  const auto beta1 = static_cast<sum_type>(step.beta1);
  const auto beta2 = static_cast<sum_type>(step.beta2);
  const auto correction1 = static_cast<sum_type>(1.0 - std::pow(step.beta1, static_cast<double>(step.step)));
  const auto correction2 = static_cast<sum_type>(1.0 - std::pow(step.beta2, static_cast<double>(step.step)));
  const auto rate = static_cast<sum_type>(step.learning_rate);
  const auto decay = static_cast<sum_type>(step.weight_decay);
  for (index i = 0; i < weight.size(); ++i) {
    const sum_type g = static_cast<sum_type>(step.gradient_scale) * gradient[i];
    m[i] = beta1 * m[i] + (sum_type(1) - beta1) * g;
    v[i] = beta2 * v[i] + (sum_type(1) - beta2) * g * g;
    const sum_type direction = (m[i] / correction1) / (std::sqrt(v[i] / correction2) + static_cast<sum_type>(step.epsilon));
    master[i] -= rate * (direction + decay * master[i]);
    weight[i] = step.round_to_bf16 ? static_cast<T>(static_cast<float>(bf16(static_cast<float>(master[i])))) : static_cast<T>(master[i]);
  }
}

}  // namespace esft::reference
