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
struct add_elements {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* x, T* y, index count) {
    for (index i = 0; i < count; i += lanes) {
      vec a;
      vec b;
      load(a, x + i, count - i);
      load(b, y + i, count - i);
      store(y + i, b + a, count - i);
    }
  }
};

/// The sum of squares of `count` elements, in double.
struct sum_squares {
  ESFT_EIGEN_INLINE static void run(const float* x, index count, double* out) {
    vec_double sums = {};
    for (index i = 0; i < count; i += lanes) {
      vec v;
      load(v, x + i, count - i);
      const vec_double wide = __builtin_convertvector(v, vec_double);
      sums += wide * wide;
    }
    double total = 0;
    for (int i = 0; i < 16; ++i) total += sums[i];
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

/// Moments; `root` receives v / correction2, of which the caller takes the square root.
struct adamw_moments {
  ESFT_EIGEN_INLINE static void run(const float* gradient, index count, adamw_factors f, float* m, float* v, float* root) {
    for (index i = 0; i < count; i += lanes) {
      vec g;
      vec first;
      vec second;
      load(g, gradient + i, count - i);
      load(first, m + i, count - i);
      load(second, v + i, count - i);
      g *= f.scale;
      first = f.beta1 * first + (1.0F - f.beta1) * g;
      second = f.beta2 * second + (1.0F - f.beta2) * g * g;
      store(m + i, first, count - i);
      store(v + i, second, count - i);
      store(root + i, second / f.correction2, count - i);
    }
  }
};

/// master -= rate (m / correction1 / (root + epsilon) + decay master); weight = rounded master.
struct adamw_apply {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const float* m, const float* root, index count, adamw_factors f, float* master, T* weight) {
    for (index i = 0; i < count; i += lanes) {
      vec first;
      vec denominator;
      vec w;
      load(first, m + i, count - i);
      load(denominator, root + i, count - i);
      load(w, master + i, count - i);
      w -= f.rate * ((first / f.correction1) / (denominator + f.epsilon) + f.decay * w);
      store(master + i, w, count - i);
      if (f.round_to_bf16) {
        half_bits rounded;
        narrow(rounded, w);
        widen(w, rounded);
      }
      store(weight + i, w, count - i);
    }
  }
};

#if ESFT_EIGEN_X86
ESFT_EIGEN_AVX512 inline void square_roots_avx512(float* x, index count) {
  for (index i = 0; i < count; i += 16) {
    const auto mask = static_cast<__mmask16>(count - i >= 16 ? 0xffffU : 0xffffU >> static_cast<unsigned>(16 - (count - i)));
    _mm512_mask_storeu_ps(x + i, mask, _mm512_sqrt_ps(_mm512_maskz_loadu_ps(mask, x + i)));
  }
}
#endif

/// x = sqrt(x), correctly rounded on every instruction set.
inline void square_roots(isa set, float* x, index count) {
#if ESFT_EIGEN_X86
  if (set >= isa::avx512) return square_roots_avx512(x, count);
#endif
  static_cast<void>(set);
  for (index i = 0; i < count; ++i) x[i] = std::sqrt(x[i]);
}

}  // namespace esft::detail::eigen
