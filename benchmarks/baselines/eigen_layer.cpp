// SPDX-License-Identifier: Apache-2.0
#include "eigen_layer.hpp"
#include "share_out.hpp"

#include <Eigen/Core>

#include <algorithm>

namespace esft::bench {
namespace {
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using in = Eigen::Map<const matrix>;
using out = Eigen::Map<matrix>;

/// What one expert keeps between forward and backward.
struct expert_rows {
  std::vector<std::int32_t> slots;
  matrix x, gate_up, result;  // result: outputs in the forward, gradients of the rows in the backward
};

class pass {
 public:
  explicit pass(const eigen_layer& layer) : l(layer), experts(static_cast<std::size_t>(layer.experts)) {
    for (long s = 0; s < l.tokens * l.active; ++s) experts[static_cast<std::size_t>(l.ids[s])].slots.push_back(static_cast<std::int32_t>(s));
  }

  void forward(long e) {
    expert_rows& r = experts[static_cast<std::size_t>(e)];
    const auto count = static_cast<long>(r.slots.size());
    r.x.resize(count, l.width);
    for (long i = 0; i < count; ++i) r.x.row(i) = in(l.x, l.tokens, l.width).row(slot(r, i) / l.active);
    r.gate_up.noalias() = r.x * gate_up_of(e).transpose();
    const auto gate = r.gate_up.leftCols(l.inner).array();
    const matrix h = (gate / (1.0F + (-gate).exp()) * r.gate_up.rightCols(l.inner).array()).matrix();
    r.result.noalias() = h * down_of(e).transpose();
  }

  void backward(long e) {
    expert_rows& r = experts[static_cast<std::size_t>(e)];
    const auto count = static_cast<long>(r.slots.size());
    matrix dy(count, l.width);
    for (long i = 0; i < count; ++i) dy.row(i) = in(l.dy, l.tokens, l.width).row(slot(r, i) / l.active);
    matrix dh = dy * down_of(e);
    const auto gate = r.gate_up.leftCols(l.inner).array();
    const auto up = r.gate_up.rightCols(l.inner).array();
    const matrix sigmoid = (1.0F / (1.0F + (-gate).exp())).matrix();
    matrix h = (gate * sigmoid.array() * up).matrix();
    for (long i = 0; i < count; ++i) {
      l.dweights[slot(r, i)] = dh.row(i).dot(h.row(i));
      dh.row(i) *= l.weights[slot(r, i)];
      h.row(i) *= l.weights[slot(r, i)];
    }
    matrix d_gate_up(count, 2 * l.inner);
    d_gate_up.leftCols(l.inner) = (dh.array() * up * sigmoid.array() * (1.0F + gate * (1.0F - sigmoid.array()))).matrix();
    d_gate_up.rightCols(l.inner) = (dh.array() * gate * sigmoid.array()).matrix();
    const auto chosen = std::find(l.selected.begin(), l.selected.end(), static_cast<std::int32_t>(e));
    if (chosen != l.selected.end()) {
      const long place = chosen - l.selected.begin();
      out(l.d_down + place * l.width * l.inner, l.width, l.inner).noalias() += dy.transpose() * h;
      out(l.d_gate_up + place * 2 * l.inner * l.width, 2 * l.inner, l.width).noalias() += d_gate_up.transpose() * r.x;
    }
    r.result.noalias() = d_gate_up * gate_up_of(e);
  }

  /// Sums what the experts left in `result` into the tokens, each row times its factor where there is one.
  void collect(const float* factors, float* to) {
    out sum(to, l.tokens, l.width);
    sum.setZero();
    for (const expert_rows& r : experts) {
      for (long i = 0; i < static_cast<long>(r.slots.size()); ++i) {
        sum.row(slot(r, i) / l.active) += (factors == nullptr ? 1.0F : factors[slot(r, i)]) * r.result.row(i);
      }
    }
  }

 private:
  static std::int32_t slot(const expert_rows& r, long i) { return r.slots[static_cast<std::size_t>(i)]; }
  [[nodiscard]] in gate_up_of(long e) const { return {l.gate_up + e * 2 * l.inner * l.width, 2 * l.inner, l.width}; }
  [[nodiscard]] in down_of(long e) const { return {l.down + e * l.width * l.inner, l.width, l.inner}; }

  const eigen_layer& l;
  std::vector<expert_rows> experts;
};

}  // namespace

void run_eigen_layer(const eigen_layer& layer, bool backward, int threads) {
  pass p(layer);
  share_out(threads, layer.experts, [&](long e) { p.forward(e); });
  p.collect(layer.weights, layer.y);
  if (!backward) return;
  share_out(threads, layer.experts, [&](long e) { p.backward(e); });
  p.collect(nullptr, layer.dx);
}

}  // namespace esft::bench
