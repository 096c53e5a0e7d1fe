// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The members of `eigen_backend`: each checks its shapes, then hands rows or tiles to the kernels.

#ifndef EIGEN_DONT_PARALLELIZE
#define EIGEN_DONT_PARALLELIZE  // results must not depend on the number of threads
#endif

#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/attention_backward.hpp>
#include <esft/backends/eigen/checked_products.hpp>
#include <esft/backends/eigen/loss.hpp>
#include <esft/backends/eigen/norm.hpp>
#include <esft/backends/eigen/routing.hpp>
#include <esft/backends/eigen/swiglu.hpp>
#include <esft/backends/eigen/update_members.hpp>

#include <numeric>

namespace esft {

namespace detail::eigen {

template <class T>
void weighted_sum(machine& m, host_view<const T, 2> y, host_view<const std::int32_t, 2> slot_row, const float* weights, host_view<T, 2> out,
                  write_mode mode) {
  const index width = out.extent(1);
  const index active = slot_row.extent(1);
  ESFT_EXPECTS(y.extent(1) == width && slot_row.extent(0) == out.extent(0), "y [R,D], slot_row [T,K], out [T,D]");
  m.rows(out.extent(0), moving * static_cast<double>(width * (active + 1)), [&](index begin, index end, int) {
    call<weighted_sum_rows>(m.set, y.data(), slot_row.data() + begin * active, weights == nullptr ? nullptr : weights + begin * active,
                            end - begin, active, width, out.data() + begin * width, mode == write_mode::accumulate);
  });
}
inline void check_tokens(host_view<const std::int32_t, 1> tokens, index vocabulary) {
  for (index t = 0; t < tokens.size(); ++t) {
    ESFT_EXPECTS(tokens[t] >= 0 && tokens[t] < vocabulary, "a token id lies in [0, V)");
  }
}
template <class T>
attention_shape shape_of(host_view<const T, 3> q, host_view<const T, 3> k, host_view<const T, 3> v,
                         host_view<const std::int32_t, 1> key_begin, host_view<const std::int32_t, 1> key_end, double scale) {
  ESFT_EXPECTS(k.extent(1) > 0 && q.extent(1) % k.extent(1) == 0, "the number of heads is a multiple of the number of key-value heads");
  ESFT_EXPECTS(k.shape() == v.shape() && q.extent(2) == k.extent(2) && key_begin.size() == q.extent(0) && key_end.size() == q.extent(0),
               "q [T,H,F], k, v [S,G,F], key_begin, key_end [T]");
  for (index t = 0; t < q.extent(0); ++t) {
    ESFT_EXPECTS(key_begin[t] >= key_end[t] || (key_begin[t] >= 0 && key_end[t] <= k.extent(0)), "a key range lies in [0, S)");
  }
  return {q.extent(1), k.extent(1), q.extent(2), static_cast<float>(scale)};
}

}  // namespace detail::eigen

template <class T>
eigen_backend<T>::eigen_backend(int threads)
    : machine_(std::make_unique<detail::eigen::machine>(threads, detail::eigen::best_isa_for<T>())) {}
template <class T>
eigen_backend<T>::~eigen_backend() = default;
template <class T>
eigen_backend<T>::eigen_backend(eigen_backend&&) noexcept = default;
template <class T>
eigen_backend<T>& eigen_backend<T>::operator=(eigen_backend&&) noexcept = default;

template <class T>
int eigen_backend<T>::threads() const noexcept {
  return machine_->pool.threads();
}

template <class T>
std::string_view eigen_backend<T>::isa() const noexcept {
  return detail::eigen::name_of(machine_->set);
}

template <class T>
std::int64_t eigen_backend<T>::products(std::string_view kernels) const {
  for (const auto family : detail::eigen::all_product_kernels) {
    if (detail::eigen::name_of(family) == kernels) return machine_->products[static_cast<std::size_t>(family)];
  }
  ESFT_EXPECTS(false, "the kernels are plain, panels, pairs or tiles");
  return 0;
}

template <class T>
void eigen_backend<T>::use(std::string_view isa) {
  for (const auto set : detail::eigen::all_isas) {
    if (detail::eigen::name_of(set) != isa) continue;
    ESFT_EXPECTS(set <= detail::eigen::best_isa_for<T>(), "the CPU has the instruction set");
    machine_->set = set;
    return;
  }
  ESFT_EXPECTS(false, "the instruction set is generic, avx2, avx512, avx512_bf16 or amx");
}

template <class T>
void eigen_backend<T>::for_ranges(index count, range_body body, const void* context) {
  machine_->rows(count, 500, [&](index begin, index end, int) { body(context, begin, end); });
}

template <class T>
void eigen_backend<T>::linear(view<const T, 2> x, matrix<const T, 2> w, view<T, 2> y, write_mode mode) {
  detail::eigen::linear<T, T>(*machine_, x, w, y, mode);
}

template <class T>
void eigen_backend<T>::linear_dx(view<const T, 2> dy, matrix<const T, 2> w, view<T, 2> dx, write_mode mode) {
  detail::eigen::linear_dx<T, T>(*machine_, dy, w, dx, mode);
}

template <class T>
void eigen_backend<T>::linear_dw(view<const T, 2> dy, view<const T, 2> x, matrix<float, 2> dw) {
  detail::eigen::linear_dw<T, T>(*machine_, dy, x, dw);
}

template <class T>
void eigen_backend<T>::logits(view<const T, 2> x, matrix<const T, 2> w, view<float, 2> y) {
  detail::eigen::linear<T, float>(*machine_, x, w, y, write_mode::overwrite);
}

template <class T>
void eigen_backend<T>::logits_dx(view<const float, 2> dy, matrix<const T, 2> w, view<T, 2> dx, write_mode mode) {
  detail::eigen::linear_dx<T, float>(*machine_, dy, w, dx, mode);
}

template <class T>
void eigen_backend<T>::logits_dw(view<const float, 2> dy, view<const T, 2> x, matrix<float, 2> dw) {
  detail::eigen::linear_dw<T, float>(*machine_, dy, x, dw);
}

template <class T>
void eigen_backend<T>::grouped_linear(view<const T, 2> x, matrix<const T, 3> w, ids offsets, view<T, 2> y) {
  detail::eigen::grouped_linear<T>(*machine_, x, w, offsets, y);
}

template <class T>
void eigen_backend<T>::grouped_linear(rows x, matrix<const T, 3> w, ids offsets, view<T, 2> y) {
  detail::eigen::grouped_linear<T>(*machine_, x, w, offsets, y);
}

template <class T>
void eigen_backend<T>::grouped_linear_dx(view<const T, 2> dy, matrix<const T, 3> w, ids offsets, view<T, 2> dx) {
  detail::eigen::grouped_linear_dx<T>(*machine_, dy, w, offsets, dx);
}

template <class T>
void eigen_backend<T>::grouped_linear_dx(rows dy, matrix<const T, 3> w, ids offsets, view<T, 2> dx) {
  detail::eigen::grouped_linear_dx<T>(*machine_, dy, w, offsets, dx);
}

template <class T>
void eigen_backend<T>::grouped_linear_dw(view<const T, 2> dy, view<const T, 2> x, ids offsets,
                                         std::span<const std::int32_t> selected, matrix<float, 3> dw) {
  detail::eigen::grouped_linear_dw<T>(*machine_, dy, x, offsets, selected, dw);
}

template <class T>
void eigen_backend<T>::grouped_linear_dw(rows dy, view<const T, 2> x, ids offsets,
                                         std::span<const std::int32_t> selected, matrix<float, 3> dw) {
  detail::eigen::grouped_linear_dw<T>(*machine_, dy, x, offsets, selected, dw);
}

template <class T>
void eigen_backend<T>::grouped_linear_dw(view<const T, 2> dy, rows x, ids offsets,
                                         std::span<const std::int32_t> selected, matrix<float, 3> dw) {
  detail::eigen::grouped_linear_dw<T>(*machine_, dy, x, offsets, selected, dw);
}

template <class T>
void eigen_backend<T>::grouped_linear(view<const T, 2> x, matrix<const T, 3> w, ids offsets, std::span<const std::int32_t> selected,
                                      view<T, 2> y, write_mode mode) {
  detail::eigen::selected_linear<T>(*machine_, x, w, offsets, selected, y, mode);
}

template <class T>
void eigen_backend<T>::grouped_linear(rows x, matrix<const T, 3> w, ids offsets, std::span<const std::int32_t> selected, view<T, 2> y,
                                      write_mode mode) {
  detail::eigen::selected_linear<T>(*machine_, x, w, offsets, selected, y, mode);
}

template <class T>
void eigen_backend<T>::grouped_linear_dx(view<const T, 2> dy, matrix<const T, 3> w, ids offsets, std::span<const std::int32_t> selected,
                                         view<T, 2> dx, write_mode mode) {
  detail::eigen::selected_linear_dx<T>(*machine_, dy, w, offsets, selected, dx, mode);
}

template <class T>
void eigen_backend<T>::grouped_linear_dx(rows dy, matrix<const T, 3> w, ids offsets, std::span<const std::int32_t> selected,
                                         view<T, 2> dx, write_mode mode) {
  detail::eigen::selected_linear_dx<T>(*machine_, dy, w, offsets, selected, dx, mode);
}

template <class T>
void eigen_backend<T>::grouped_swiglu(view<const T, 2> x, matrix<const T, 3> w, ids offsets, view<T, 2> gate_up, view<T, 2> h) {
  detail::eigen::grouped_swiglu<T>(*machine_, x, w, offsets, gate_up, h);
}

template <class T>
void eigen_backend<T>::grouped_swiglu(rows x, matrix<const T, 3> w, ids offsets, view<T, 2> gate_up, view<T, 2> h) {
  detail::eigen::grouped_swiglu<T>(*machine_, x, w, offsets, gate_up, h);
}

// Some compilers instantiate constrained members for other types too, with all the members of the class.
template <class T>
bool eigen_backend<T>::grouped_mlp(rows x, matrix<const T, 3> gate_up_weight, matrix<const T, 3> down_weight, ids offsets,
                                   const factors* gate_up_factors, const factors* down_factors, view<T, 2> gate_up, view<T, 2> y)
  requires std::same_as<T, bf16>
{
  if constexpr (std::same_as<T, bf16>) {
    return detail::eigen::grouped_mlp(*machine_, x, gate_up_weight, down_weight, offsets, gate_up_factors, down_factors, gate_up, y);
  } else {
    return false;
  }
}

template <class T>
bool eigen_backend<T>::grouped_mlp_backward(rows dy, matrix<const T, 3> gate_up_weight, matrix<const T, 3> down_weight, ids offsets,
                                            std::span<const std::int32_t> selected, const factors* gate_up_factors,
                                            const factors* down_factors, view<const T, 2> gate_up, view<const float, 2> weights,
                                            ids row_slot, view<T, 2> dgate_up, view<T, 2> weighted_h, view<T, 2> dx,
                                            view<float, 2> dweights)
  requires std::same_as<T, bf16>
{
  if constexpr (std::same_as<T, bf16>) {
    return detail::eigen::grouped_mlp_backward(*machine_, dy, gate_up_weight, down_weight, offsets, selected, gate_up_factors, down_factors,
                                               gate_up, weights, row_slot, dgate_up, weighted_h, dx, dweights);
  } else {
    return false;
  }
}

template <class T>
void eigen_backend<T>::rearrange(view<T, 2> values, matrix_layout from, matrix_layout to) {
  detail::eigen::rearrange(values, from, to);
}

template <class T>
void eigen_backend<T>::rearrange(view<sum_type, 2> sums, matrix_layout from, matrix_layout to)
  requires(!std::same_as<T, float>)
{
  detail::eigen::rearrange(sums, from, to);
}

template <class T>
void eigen_backend<T>::dispatch(slots expert_ids, view<std::int32_t, 1> offsets, view<std::int32_t, 1> row_slot,
                                view<std::int32_t, 2> slot_row) {
  ESFT_EXPECTS(offsets.size() >= 1 && row_slot.size() == expert_ids.size() && slot_row.size() == expert_ids.size(),
               "offsets [E+1], row_slot [T K], slot_row [T,K]");
  detail::eigen::sort_slots(expert_ids.data(), expert_ids.size(), offsets.size() - 1, offsets.data(), row_slot.data(), slot_row.data());
}

template <class T>
void eigen_backend<T>::gather(view<const T, 2> x, ids row_slot, index active, view<T, 2> y) {
  const index width = y.extent(1);
  ESFT_EXPECTS(x.extent(1) == width && row_slot.size() == y.extent(0), "x [T,D], row_slot [R], y [R,D]");
  machine_->rows(y.extent(0), detail::eigen::moving * static_cast<double>(width), [&](index begin, index end, int) {
    for (index r = begin; r < end; ++r) {
      if (row_slot[r] != no_expert) std::copy_n(x.data() + row_slot[r] / active * width, width, y.data() + r * width);
    }
  });
}

template <class T>
void eigen_backend<T>::gather_sum(view<const T, 2> y, slots slot_row, view<T, 2> out, write_mode mode) {
  detail::eigen::weighted_sum(*machine_, y, slot_row, nullptr, out, mode);
}

template <class T>
void eigen_backend<T>::combine(view<const T, 2> y, slots slot_row, view<const float, 2> weights, view<T, 2> out, write_mode mode) {
  ESFT_EXPECTS(weights.size() == slot_row.size(), "weights [T,K] beside slot_row [T,K]");
  detail::eigen::weighted_sum(*machine_, y, slot_row, weights.data(), out, mode);
}

template <class T>
void eigen_backend<T>::swiglu(view<const T, 2> gate_up, view<T, 2> h) {
  const index width = h.extent(1);
  ESFT_EXPECTS(gate_up.extent(0) == h.extent(0) && gate_up.extent(1) == 2 * width, "gate_up [R,2I], h [R,I]");
  machine_->rows(h.extent(0), 4 * detail::eigen::moving * static_cast<double>(width), [&](index begin, index end, int) {
    detail::eigen::call<detail::eigen::swiglu_rows>(machine_->set, gate_up.data() + begin * 2 * width, end - begin, width,
                                                    h.data() + begin * width);
  });
}

template <class T>
void eigen_backend<T>::swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<T, 2> dgate_up) {
  const index width = dh.extent(1);
  ESFT_EXPECTS(gate_up.shape() == dgate_up.shape() && gate_up.extent(0) == dh.extent(0) && gate_up.extent(1) == 2 * width,
               "gate_up, dgate_up [R,2I], dh [R,I]");
  machine_->rows(dh.extent(0), 6 * detail::eigen::moving * static_cast<double>(width), [&](index begin, index end, int) {
    detail::eigen::call<detail::eigen::swiglu_backward_rows>(machine_->set, gate_up.data() + begin * 2 * width, dh.data() + begin * width,
                                                             end - begin, width, dgate_up.data() + begin * 2 * width);
  });
}

template <class T>
void eigen_backend<T>::weighted_swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<const float, 2> weights, ids row_slot,
                                                view<T, 2> dgate_up, view<T, 2> weighted_h, view<float, 2> dweights) {
  const index width = dh.extent(1);
  ESFT_EXPECTS(gate_up.shape() == dgate_up.shape() && gate_up.extent(0) == dh.extent(0) && gate_up.extent(1) == 2 * width &&
                   weighted_h.shape() == dh.shape() && row_slot.size() == dh.extent(0) && weights.size() == dweights.size(),
               "gate_up, dgate_up [R,2I], dh, weighted_h [R,I], row_slot [R], weights, dweights [T,K]");
  machine_->rows(dh.extent(0), 8 * detail::eigen::moving * static_cast<double>(width), [&](index begin, index end, int) {
    detail::eigen::call<detail::eigen::weighted_swiglu_backward_rows>(
        machine_->set, gate_up.data() + begin * 2 * width, dh.data() + begin * width, weights.data(), row_slot.data() + begin, end - begin,
        width, dgate_up.data() + begin * 2 * width, weighted_h.data() + begin * width, dweights.data());
  });
}

template <class T>
void eigen_backend<T>::add(view<const T, 1> x, view<T, 1> y) {
  ESFT_EXPECTS(x.size() == y.size(), "x and y have equally many elements");
  machine_->rows(y.size(), detail::eigen::moving, [&](index begin, index end, int) {
    detail::eigen::call<detail::eigen::add_elements>(machine_->set, x.data() + begin, y.data() + begin, end - begin);
  });
}

template <class T>
void eigen_backend<T>::embedding(ids tokens, view<const T, 2> table, view<T, 2> y) {
  const index width = y.extent(1);
  detail::eigen::check_tokens(tokens, table.extent(0));
  ESFT_EXPECTS(table.extent(1) == width && tokens.size() == y.extent(0), "ids [T], table [V,D], y [T,D]");
  machine_->rows(y.extent(0), detail::eigen::moving * static_cast<double>(width), [&](index begin, index end, int) {
    for (index t = begin; t < end; ++t) std::copy_n(table.data() + tokens[t] * width, width, y.data() + t * width);
  });
}

template <class T>
void eigen_backend<T>::embedding_dw(ids tokens, view<const T, 2> dy, view<float, 2> dtable) {
  const index width = dy.extent(1);
  detail::eigen::check_tokens(tokens, dtable.extent(0));
  ESFT_EXPECTS(dtable.extent(1) == width && tokens.size() == dy.extent(0), "ids [T], dy [T,D], dtable [V,D]");
  constexpr index block = 64;  // columns: each task adds into its own, in token order
  machine_->run((width + block - 1) / block, static_cast<double>(dy.size()), [&](index part, int) {
    detail::eigen::call<detail::eigen::embedding_gradient_columns>(machine_->set, tokens.data(), dy.data(), dy.extent(0), width,
                                                                   part * block, std::min(width, (part + 1) * block), dtable.data());
  });
}

template <class T>
void eigen_backend<T>::rms_norm(view<const T, 2> x, view<const T, 1> weight, double epsilon, view<T, 2> y, view<float, 1> rstd) {
  const index width = x.extent(1);
  ESFT_EXPECTS(x.shape() == y.shape() && weight.size() == width && rstd.size() == x.extent(0), "x, y [N,D], weight [D], rstd [N]");
  machine_->rows(x.extent(0), 2 * detail::eigen::moving * static_cast<double>(width), [&](index begin, index end, int) {
    detail::eigen::call<detail::eigen::rms_norm_rows>(machine_->set, x.data() + begin * width, weight.data(), static_cast<float>(epsilon),
                                                      end - begin, width, y.data() + begin * width, rstd.data() + begin);
  });
}

template <class T>
void eigen_backend<T>::rms_norm_dx(view<const T, 2> dy, view<const T, 2> x, view<const T, 1> weight, view<const float, 1> rstd,
                                   view<T, 2> dx, write_mode mode) {
  const index width = x.extent(1);
  ESFT_EXPECTS(dy.shape() == x.shape() && dx.shape() == x.shape() && weight.size() == width && rstd.size() == x.extent(0),
               "dy, x, dx [N,D], weight [D], rstd [N]");
  machine_->rows(x.extent(0), 3 * detail::eigen::moving * static_cast<double>(width), [&](index begin, index end, int) {
    detail::eigen::call<detail::eigen::rms_norm_input_gradient_rows>(machine_->set, dy.data() + begin * width, x.data() + begin * width,
                                                                     weight.data(), rstd.data() + begin, end - begin, width,
                                                                     dx.data() + begin * width, mode == write_mode::accumulate);
  });
}

template <class T>
void eigen_backend<T>::rms_norm_dw(view<const T, 2> dy, view<const T, 2> x, view<const float, 1> rstd, view<float, 1> dweight) {
  const index width = x.extent(1);
  ESFT_EXPECTS(dy.shape() == x.shape() && dweight.size() == width && rstd.size() == x.extent(0), "dy, x [N,D], rstd [N], dweight [D]");
  constexpr index block = 256;  // rows: partial sums, joined in order
  const index blocks = (x.extent(0) + block - 1) / block;
  std::vector<float> parts(static_cast<std::size_t>(blocks * width));
  machine_->run(blocks, 3.0 * static_cast<double>(x.size()), [&](index part, int) {
    const index begin = part * block;
    detail::eigen::call<detail::eigen::rms_norm_weight_gradient_rows>(machine_->set, dy.data() + begin * width, x.data() + begin * width,
                                                                      rstd.data() + begin, std::min(block, x.extent(0) - begin), width,
                                                                      parts.data() + part * width);
  });
  for (index part = 0; part < blocks; ++part) {
    for (index d = 0; d < width; ++d) dweight[d] += parts[static_cast<std::size_t>(part * width + d)];
  }
}

template <class T>
void eigen_backend<T>::rope(view<T, 3> x, ids positions, double theta, int direction) {
  const index half = x.extent(2) / 2;
  ESFT_EXPECTS(positions.size() == x.extent(0) && x.extent(2) == 2 * half, "x [T,H,F] with even F, positions [T]");
  index longest = 0;
  for (index t = 0; t < positions.size(); ++t) {
    ESFT_EXPECTS(positions[t] >= 0 && positions[t] < (1 << 24), "a position lies in [0, 2^24)");
    longest = std::max<index>(longest, positions[t] + 1);
  }
  machine_->rope.prepare(longest, half, theta);
  const index row = x.extent(1) * x.extent(2);
  machine_->rows(x.extent(0), 2 * detail::eigen::moving * static_cast<double>(row), [&](index begin, index end, int) {
    detail::eigen::call<detail::eigen::rope_rows>(machine_->set, x.data() + begin * row, positions.data() + begin, machine_->rope.cosine(),
                                                  machine_->rope.sine(), static_cast<float>(direction), end - begin, x.extent(1), half);
  });
}

template <class T>
void eigen_backend<T>::attention(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, ids key_begin, ids key_end, double scale,
                                 view<T, 3> o, view<float, 2> lse) {
  const auto shape = detail::eigen::shape_of<T>(q, k, v, key_begin, key_end, scale);
  ESFT_EXPECTS(o.shape() == q.shape() && lse.extent(0) == q.extent(0) && lse.extent(1) == q.extent(1), "o [T,H,F], lse [T,H]");
  if (q.extent(0) == 0 || q.extent(1) == 0) return;
  detail::eigen::attention_forward(*machine_, shape, q.data(), k.data(), v.data(), key_begin.data(), key_end.data(), q.extent(0), o.data(),
                                   lse.data());
}

template <class T>
void eigen_backend<T>::attention_backward(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, view<const T, 3> o,
                                          view<const float, 2> lse, view<const T, 3> d_o, ids key_begin, ids key_end, double scale,
                                          view<T, 3> dq, view<T, 3> dk, view<T, 3> dv) {
  const auto shape = detail::eigen::shape_of<T>(q, k, v, key_begin, key_end, scale);
  ESFT_EXPECTS(o.shape() == q.shape() && d_o.shape() == q.shape() && dq.shape() == q.shape() && dk.shape() == k.shape() &&
                   dv.shape() == k.shape() && lse.size() == q.extent(0) * q.extent(1),
               "o, d_o, dq [T,H,F], dk, dv [S,G,F], lse [T,H]");
  const detail::eigen::attention_gradients<T> operands{q.data(),         k.data(),       v.data(),  o.data(),  lse.data(), d_o.data(),
                                                       key_begin.data(), key_end.data(), dq.data(), dk.data(), dv.data()};
  detail::eigen::attention_backward_all(*machine_, shape, operands, q.extent(0), k.extent(0));
}

template <class T>
double eigen_backend<T>::cross_entropy(view<float, 2> logits, ids labels, double scale) {
  const index width = logits.extent(1);
  ESFT_EXPECTS(labels.size() == logits.extent(0), "logits [T,V], labels [T]");
  for (index t = 0; t < labels.size(); ++t) {
    ESFT_EXPECTS(labels[t] == ignored_label || (labels[t] >= 0 && labels[t] < width), "a label lies in [0, V)");
  }
  std::vector<double> losses(static_cast<std::size_t>(labels.size()));
  constexpr index block = 8;  // rows: while one is computed the next arrives
  machine_->run((labels.size() + block - 1) / block, 4.0 * static_cast<double>(logits.size()), [&](index part, int) {
    const index begin = part * block;
    detail::eigen::call<detail::eigen::cross_entropy_rows>(machine_->set, logits.data() + begin * width, labels.data() + begin,
                                                           std::min(block, labels.size() - begin), width, static_cast<float>(scale),
                                                           losses.data() + begin);
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace esft
