// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// RMSNorm rows, and rotary position embedding with cached sines.

#include <esft/backends/eigen/simd.hpp>

#include <cmath>
#include <vector>

namespace esft::detail::eigen {

/// y = x rstd weight. @shape x, y [rows, width], weight [width], rstd [rows]
template <class vec>
struct rms_norm_rows {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* x, const T* weight, float epsilon, index rows, index width, T* y, float* rstd) {
    for (index r = 0; r < rows; ++r, x += width, y += width) {
      vec squares = {};
      for (index d = 0; d < width; d += lanes_of<vec>) {
        vec v;
        load(v, x + d, width - d);
        squares += v * v;
      }
      const float scale = 1.0F / std::sqrt(sum_of(squares) / static_cast<float>(width) + epsilon);
      rstd[r] = scale;
      for (index d = 0; d < width; d += lanes_of<vec>) {
        vec v;
        vec w;
        load(v, x + d, width - d);
        load(w, weight + d, width - d);
        store(y + d, v * scale * w, width - d);
      }
    }
  }
};

/// dx (+)= rstd (w dy - x rstd^2 mean(x w dy))
template <class vec>
struct rms_norm_input_gradient_rows {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* dy, const T* x, const T* weight, const float* rstd, index rows, index width, T* dx,
                                    bool accumulate) {
    for (index r = 0; r < rows; ++r, dy += width, x += width, dx += width) {
      vec dot = {};
      for (index d = 0; d < width; d += lanes_of<vec>) {
        vec g;
        vec v;
        vec w;
        load(g, dy + d, width - d);
        load(v, x + d, width - d);
        load(w, weight + d, width - d);
        dot += v * w * g;
      }
      const float scale = rstd[r];
      const float pull = sum_of(dot) * scale * scale / static_cast<float>(width);
      for (index d = 0; d < width; d += lanes_of<vec>) {
        vec g;
        vec v;
        vec w;
        load(g, dy + d, width - d);
        load(v, x + d, width - d);
        load(w, weight + d, width - d);
        vec value = scale * (w * g - v * pull);
        if (accumulate) {
          vec old;
          load(old, dx + d, width - d);
          value += old;
        }
        store(dx + d, value, width - d);
      }
    }
  }
};

/// part = the sum over these rows of dy x rstd. @shape part [width]
template <class vec>
struct rms_norm_weight_gradient_rows {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* dy, const T* x, const float* rstd, index rows, index width, float* part) {
    for (index d = 0; d < width; ++d) part[d] = 0;
    for (index r = 0; r < rows; ++r) {  // row by row, as memory likes it
      for (index d = 0; d < width; d += lanes_of<vec>) {
        vec g;
        vec v;
        vec sum;
        load(g, dy + r * width + d, width - d);
        load(v, x + r * width + d, width - d);
        load(sum, part + d, width - d);
        store(part + d, sum + g * v * rstd[r], width - d);
      }
    }
  }
};

/// Rotates the pairs (i, i + half) of every head. @shape x [tokens, heads, 2 half], cosine and sine [*, half]
template <class vec>
struct rope_rows {
  template <class T>
  ESFT_EIGEN_INLINE static void run(T* x, const std::int32_t* positions, const float* cosine, const float* sine, float direction,
                                    index tokens, index heads, index half) {
    for (index t = 0; t < tokens; ++t) {
      const float* cosines = cosine + positions[t] * half;
      const float* sines = sine + positions[t] * half;
      for (index h = 0; h < heads; ++h, x += 2 * half) {
        for (index i = 0; i < half; i += lanes_of<vec>) {
          vec first;
          vec second;
          vec c;
          vec s;
          load(first, x + i, half - i);
          load(second, x + half + i, half - i);
          load(c, cosines + i, half - i);
          load(s, sines + i, half - i);
          s *= direction;
          store(x + i, first * c - second * s, half - i);
          store(x + half + i, second * c + first * s, half - i);
        }
      }
    }
  }
};

/// cos and sin of position * theta^(-2 i / F) for positions [0, rows), grown when a longer sequence comes.
class rope_table {
 public:
  void prepare(index rows, index half, double theta) {
    if (half != half_ || theta != theta_) {
      cosine_.clear();
      sine_.clear();
      half_ = half;
      theta_ = theta;
    }
    for (auto done = static_cast<index>(half == 0 ? rows : static_cast<index>(cosine_.size()) / half); done < rows; ++done) {
      for (index i = 0; i < half; ++i) {
        const double angle = static_cast<double>(done) * std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
        cosine_.push_back(static_cast<float>(std::cos(angle)));
        sine_.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
  [[nodiscard]] const float* cosine() const noexcept { return cosine_.data(); }
  [[nodiscard]] const float* sine() const noexcept { return sine_.data(); }

 private:
  index half_ = -1;
  double theta_ = 0;
  std::vector<float> cosine_, sine_;
};

}  // namespace esft::detail::eigen
