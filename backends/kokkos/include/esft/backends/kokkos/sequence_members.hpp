// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Members of `kokkos_backend` over sequences: embedding, rotary embedding, attention, cross-entropy.

#include <esft/backends/kokkos.hpp>
#include <esft/backends/kokkos/attention.hpp>
#include <esft/backends/kokkos/rows.hpp>

namespace esft {

template <class Execution, class T>
void kokkos_backend<Execution, T>::embedding(ids tokens, view<const T, 2> table, view<T, 2> y) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(table.extent(1) == y.extent(1) && tokens.size() == y.extent(0), "ids [T], table [V,D], y [T,D]");
  context_->teams("esft embedding", y.extent(0),
                  k::embedding_row<T>{tokens.data(), table.data(), y.data(), y.extent(1), table.extent(0), context_->bad.data(),
                                      static_cast<int>(k::mark::token)});
  context_->check_marks();
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::embedding_dw(ids tokens, view<const T, 2> dy, view<accum_type, 2> dtable) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(dtable.extent(1) == dy.extent(1) && tokens.size() == dy.extent(0), "ids [T], dy [T,D], dtable [V,D]");
  context_->each("esft embedding dw", k::divide_up(dy.extent(1), k::columns_at_once<Execution>),
                 k::embedding_dw_columns<Execution, T>{tokens.data(), dy.data(), dtable.data(), dy.extent(0), dy.extent(1),
                                                       dtable.extent(0), context_->bad.data(), static_cast<int>(k::mark::token)});
  context_->check_marks();
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::rope(view<T, 3> x, ids positions, double theta, int direction) {
  namespace k = detail::kokkos;
  const index half = x.extent(2) / 2;
  ESFT_EXPECTS(positions.size() == x.extent(0) && x.extent(2) == 2 * half, "x [T,H,F] with even F, positions [T]");
  auto* const rates = context_->template scratch<double>(k::purpose::rates, half);
  context_->each("esft rope rates", half, k::rope_rate{rates, theta, x.extent(2)});
  context_->teams("esft rope", x.extent(0),
                  k::rope_token<Execution, T>{x.data(), positions.data(), rates, x.extent(1), x.extent(2), direction});
}

namespace detail::kokkos {
template <class View, class Ids>
attention_shape shape_of_attention(const View& q, const View& k, const View& v, const Ids& begin, const Ids& end) {
  ESFT_EXPECTS(k.extent(1) > 0 && q.extent(1) % k.extent(1) == 0, "the number of heads is a multiple of the number of key-value heads");
  ESFT_EXPECTS(k.shape() == v.shape() && q.extent(2) == k.extent(2) && begin.size() == q.extent(0) && end.size() == q.extent(0),
               "q [T,H,F], k and v [S,G,F], key_begin and key_end [T]");
  return {begin.data(), end.data(), q.extent(0), q.extent(1), k.extent(0), k.extent(1), q.extent(2)};
}
}  // namespace detail::kokkos

template <class Execution, class T>
void kokkos_backend<Execution, T>::attention(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, ids key_begin, ids key_end,
                                             double scale, view<T, 3> o, view<accum_type, 2> lse) {
  using kernel = detail::kokkos::attention_query<Execution, T>;
  const auto shape = detail::kokkos::shape_of_attention(q, k, v, key_begin, key_end);
  ESFT_EXPECTS(o.shape() == q.shape() && lse.extent(0) == q.extent(0) && lse.extent(1) == q.extent(1), "o [T,H,F], lse [T,H]");
  context_->teams_with("esft attention", shape.queries * shape.heads, kernel::bytes(shape.width),
                       kernel{shape, q.data(), k.data(), v.data(), o.data(), lse.data(), static_cast<accum_type>(scale)});
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::attention_backward(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, view<const T, 3> o,
                                                      view<const accum_type, 2> lse, view<const T, 3> d_o, ids key_begin, ids key_end,
                                                      double scale, view<T, 3> dq, view<T, 3> dk, view<T, 3> dv) {
  namespace d = detail::kokkos;
  using half_q = d::attention_dq<Execution, T>;
  using half_kv = d::attention_dkv<Execution, T>;
  const auto shape = d::shape_of_attention(q, k, v, key_begin, key_end);
  ESFT_EXPECTS(o.shape() == q.shape() && d_o.shape() == q.shape() && dq.shape() == q.shape() && dk.shape() == k.shape() &&
                   dv.shape() == v.shape() && lse.extent(0) == q.extent(0) && lse.extent(1) == q.extent(1),
               "o, d_o, dq [T,H,F], dk and dv [S,G,F], lse [T,H]");
  const index all = shape.queries * shape.heads;
  const index blocks = d::divide_up(shape.keys, d::attention_chunk);
  auto* const pulls = context_->template scratch<accum_type>(d::purpose::numbers, all);
  auto* const ranges = context_->template scratch<std::int32_t>(d::purpose::ranges, 2 * blocks);
  context_->teams("esft attention pulls", all, d::attention_pull<Execution, T>{o.data(), d_o.data(), pulls, shape.width});
  const d::attention_saved<T> in{shape, q.data(), k.data(), v.data(), d_o.data(), lse.data(), pulls, static_cast<accum_type>(scale)};
  context_->teams_with("esft attention dq", all, half_q::bytes(shape.width), half_q{in, dq.data()});
  context_->each("esft attention ranges", blocks, d::attention_ranges{shape, ranges});
  context_->teams_with("esft attention dk dv", shape.keys * shape.groups, half_kv::bytes(shape.width),
                       half_kv{in, ranges, dk.data(), dv.data()});
}

template <class Execution, class T>
double kokkos_backend<Execution, T>::cross_entropy(view<accum_type, 2> logits, ids labels, double scale) {
  namespace k = detail::kokkos;
  const index rows = logits.extent(0);
  ESFT_EXPECTS(labels.size() == rows, "logits [T,V], labels [T]");
  const index count = k::divide_up(rows, k::terms_of_a_part);
  auto* const losses = context_->template scratch<double>(k::purpose::numbers, rows + count + 1);
  context_->teams(
      "esft cross entropy", rows,
      k::cross_entropy_row<Execution, accum_type>{logits.data(), labels.data(), losses, logits.extent(1), static_cast<accum_type>(scale),
                                                  context_->bad.data(), static_cast<int>(k::mark::label)});
  context_->teams("esft losses", count, k::sum_part<Execution, double, false>{losses, losses + rows, rows});
  return finish_sum(losses + rows, count);
}

}  // namespace esft
