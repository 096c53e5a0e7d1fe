// SPDX-License-Identifier: Apache-2.0
#include "eigen_loop.hpp"

#include <Eigen/Core>

#include <algorithm>

namespace esft::baseline {
namespace {
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using in = Eigen::Map<const matrix>;
using out = Eigen::Map<matrix>;
}  // namespace

void forward(long m, long n, long k, const float* x, const float* w, float* y) {
  out(y, m, n).noalias() = in(x, m, k) * in(w, n, k).transpose();
}
void input_gradient(long m, long n, long k, const float* dy, const float* w, float* dx) {
  out(dx, m, k).noalias() = in(dy, m, n) * in(w, n, k);
}
void weight_gradient(long m, long n, long k, const float* dy, const float* x, float* dw) {
  out(dw, n, k).noalias() += in(dy, m, n).transpose() * in(x, m, k);
}

void layer_step(const layer& l) {
  const long inner = l.inner;
  std::vector<std::vector<std::int32_t>> slots(static_cast<std::size_t>(l.experts));
  for (long s = 0; s < l.tokens * l.active; ++s) slots[static_cast<std::size_t>(l.ids[s])].push_back(static_cast<std::int32_t>(s));
  const in x(l.x, l.tokens, l.width);
  const in dy(l.dy, l.tokens, l.width);
  out y(l.y, l.tokens, l.width);
  out dx(l.dx, l.tokens, l.width);
  y.setZero();
  dx.setZero();
  std::vector<matrix> rows(slots.size()), gate_up(slots.size());
  for (std::size_t e = 0; e < slots.size(); ++e) {
    const auto count = static_cast<long>(slots[e].size());
    const in w1(l.gate_up + static_cast<long>(e) * 2 * inner * l.width, 2 * inner, l.width);
    const in w2(l.down + static_cast<long>(e) * l.width * inner, l.width, inner);
    rows[e].resize(count, l.width);
    for (long r = 0; r < count; ++r) rows[e].row(r) = x.row(slots[e][static_cast<std::size_t>(r)] / l.active);
    gate_up[e].noalias() = rows[e] * w1.transpose();
    const auto gate = gate_up[e].leftCols(inner).array();
    const matrix h = (gate / (1.0F + (-gate).exp()) * gate_up[e].rightCols(inner).array()).matrix();
    const matrix result = h * w2.transpose();
    for (long r = 0; r < count; ++r) {
      const std::int32_t s = slots[e][static_cast<std::size_t>(r)];
      y.row(s / l.active) += l.weights[s] * result.row(r);
    }
  }
  for (std::size_t e = 0; e < slots.size(); ++e) {
    const auto count = static_cast<long>(slots[e].size());
    const in w1(l.gate_up + static_cast<long>(e) * 2 * inner * l.width, 2 * inner, l.width);
    const in w2(l.down + static_cast<long>(e) * l.width * inner, l.width, inner);
    matrix row_dy(count, l.width);
    for (long r = 0; r < count; ++r) row_dy.row(r) = dy.row(slots[e][static_cast<std::size_t>(r)] / l.active);
    matrix dh = row_dy * w2;
    const auto gate = gate_up[e].leftCols(inner).array();
    const auto up = gate_up[e].rightCols(inner).array();
    const matrix sigmoid = (1.0F / (1.0F + (-gate).exp())).matrix();
    matrix h = (gate * sigmoid.array() * up).matrix();
    for (long r = 0; r < count; ++r) {
      const std::int32_t s = slots[e][static_cast<std::size_t>(r)];
      l.dweights[s] = dh.row(r).dot(h.row(r));
      dh.row(r) *= l.weights[s];
      h.row(r) *= l.weights[s];
    }
    matrix d_gate_up(count, 2 * inner);
    d_gate_up.leftCols(inner) = (dh.array() * up * sigmoid.array() * (1.0F + gate * (1.0F - sigmoid.array()))).matrix();
    d_gate_up.rightCols(inner) = (dh.array() * gate * sigmoid.array()).matrix();
    const auto chosen = std::find(l.selected.begin(), l.selected.end(), static_cast<std::int32_t>(e));
    if (chosen != l.selected.end()) {
      const long place = chosen - l.selected.begin();
      out(l.d_down + place * l.width * inner, l.width, inner).noalias() += row_dy.transpose() * h;
      out(l.d_gate_up + place * 2 * inner * l.width, 2 * inner, l.width).noalias() += d_gate_up.transpose() * rows[e];
    }
    const matrix d_rows = d_gate_up * w1;
    for (long r = 0; r < count; ++r) dx.row(slots[e][static_cast<std::size_t>(r)] / l.active) += d_rows.row(r);
  }
}

}  // namespace esft::baseline
