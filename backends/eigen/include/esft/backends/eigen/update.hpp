// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Element by element: add, AdamW, sum of squares.

#include <esft/backend/backend.hpp>
#include <esft/backends/eigen/micro_kernel.hpp>
#include <esft/backends/eigen/simd.hpp>

#include <cmath>

namespace esft::detail::eigen {

/// y += x
template <class vec>
struct add_elements {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* x, T* y, index count) {
    for (index i = 0; i < count; i += lanes_of<vec>) {
      vec a;
      vec b;
      load(a, x + i, count - i);
      load(b, y + i, count - i);
      store(y + i, b + a, count - i);
    }
  }
};

/// The sum of squares of `count` elements, in double.
template <class vec>
struct sum_squares {
  ESFT_EIGEN_INLINE static void run(const float* x, index count, double* out) {
    constexpr index half = lanes_of<vec> / 2;
    doubles_of<vec> low = {};  // doubles of a vector twice as wide would lie in memory
    doubles_of<vec> high = {};
    index i = 0;
    for (; i + lanes_of<vec> <= count; i += lanes_of<vec>) {
      half_of<vec> parts[2];
      std::memcpy(parts, x + i, sizeof parts);
      const doubles_of<vec> first = __builtin_convertvector(parts[0], doubles_of<vec>);
      const doubles_of<vec> second = __builtin_convertvector(parts[1], doubles_of<vec>);
      low += first * first;
      high += second * second;
    }
    double total = 0;
    for (index lane = 0; lane < half; ++lane) total += low[lane];
    for (index lane = 0; lane < half; ++lane) total += high[lane];
    for (; i < count; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    *out = total;
  }
};

/// Scalars of one AdamW update in float, as the reference rounds them.
struct adamw_factors {
  explicit adamw_factors(const adamw_step& step)
      : scale(static_cast<float>(step.gradient_scale)),
        beta1(static_cast<float>(step.beta1)),
        beta2(static_cast<float>(step.beta2)),
        correction1(static_cast<float>(1.0 - std::pow(step.beta1, static_cast<double>(step.step)))),
        correction2(static_cast<float>(1.0 - std::pow(step.beta2, static_cast<double>(step.step)))),
        rate(static_cast<float>(step.learning_rate)),
        decay(static_cast<float>(step.weight_decay)),
        epsilon(static_cast<float>(step.epsilon)),
        round_to_bf16(step.round_to_bf16) {}
  float scale, beta1, beta2, correction1, correction2, rate, decay, epsilon;
  bool round_to_bf16;
};

/// Moments; `root` receives v / correction2, of which the caller takes the square root. Afterwards g is of no use.
template <class vec>
ESFT_EIGEN_INLINE void adamw_moments(vec& g, vec& m, vec& v, vec& root, const adamw_factors& f) {
  g *= f.scale;
  m = f.beta1 * m + (1.0F - f.beta1) * g;
  v = f.beta2 * v + (1.0F - f.beta2) * g * g;
  root = v / f.correction2;
}
/// master -= rate (m / correction1 / (root + epsilon) + decay master)
template <class vec>
ESFT_EIGEN_INLINE void adamw_apply(vec& master, const vec& m, const vec& root, const adamw_factors& f) {
  master -= f.rate * ((m / f.correction1) / (root + f.epsilon) + f.decay * master);
}
/// weight = master, or master as bf16 rounds it.
template <class T, class vec>
ESFT_EIGEN_INLINE void adamw_weight(T* weight, const vec& master, bool round_to_bf16, index count) {
  vec w = master;
  if (std::same_as<T, float> && round_to_bf16) {
    halves_of<vec> rounded;
    narrow(rounded, w);
    widen(w, rounded);
  }
  store(weight, w, count);
}

/// The update of `count` elements in one pass, each plane fetched ahead: four streams are more than the hardware follows on its own.
template <class vec>
struct adamw_elements {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const float* gradient, index count, const adamw_factors* factors, float* m, float* v, float* master,
                                    T* weight) {
    constexpr index ahead = 256;  // elements: 1 KB of each plane
    const adamw_factors f = *factors;
    for (index i = 0; i < count; i += lanes_of<vec>) {
      __builtin_prefetch(gradient + i + ahead);
      __builtin_prefetch(m + i + ahead, 1);
      __builtin_prefetch(v + i + ahead, 1);
      __builtin_prefetch(master + i + ahead, 1);
      vec g;
      vec first;
      vec second;
      vec w;
      vec root;
      load(g, gradient + i, count - i);
      load(first, m + i, count - i);
      load(second, v + i, count - i);
      load(w, master + i, count - i);
      adamw_moments(g, first, second, root, f);
      store(m + i, first, count - i);
      store(v + i, second, count - i);
      square_root(root);
      adamw_apply(w, first, root, f);
      store(master + i, w, count - i);
      adamw_weight(weight + i, w, f.round_to_bf16, count - i);
    }
  }
};

}  // namespace esft::detail::eigen
