// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Members of `kokkos_backend` over rows and elements: activations, norms, the update.

#include <esft/backends/kokkos.hpp>
#include <esft/backends/kokkos/rows.hpp>

namespace esft {

template <class Execution, class T>
void kokkos_backend<Execution, T>::swiglu(view<const T, 2> gate_up, view<T, 2> h) {
  ESFT_EXPECTS(gate_up.extent(0) == h.extent(0) && gate_up.extent(1) == 2 * h.extent(1), "gate_up [R,2I], h [R,I]");
  context_->teams("esft swiglu", h.extent(0), detail::kokkos::swiglu_row<Execution, T>{gate_up.data(), h.data(), h.extent(1)});
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<T, 2> dgate_up) {
  ESFT_EXPECTS(gate_up.shape() == dgate_up.shape() && gate_up.extent(0) == dh.extent(0) && gate_up.extent(1) == 2 * dh.extent(1),
               "gate_up, dgate_up [R,2I], dh [R,I]");
  context_->teams("esft swiglu backward", dh.extent(0),
                  detail::kokkos::swiglu_backward_row<Execution, T, false>{gate_up.data(), dh.data(), nullptr, nullptr, dgate_up.data(),
                                                                           nullptr, nullptr, dh.extent(1)});
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::weighted_swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh,
                                                            view<const accum_type, 2> weights, ids row_slot, view<T, 2> dgate_up,
                                                            view<T, 2> weighted_h, view<accum_type, 2> dweights) {
  ESFT_EXPECTS(gate_up.shape() == dgate_up.shape() && gate_up.extent(0) == dh.extent(0) && gate_up.extent(1) == 2 * dh.extent(1),
               "gate_up, dgate_up [R,2I], dh [R,I]");
  ESFT_EXPECTS(weighted_h.shape() == dh.shape() && row_slot.size() == dh.extent(0) && dweights.shape() == weights.shape(),
               "weighted_h [R,I], row_slot [R], weights, dweights [T,K]");
  context_->teams(
      "esft weighted swiglu backward", dh.extent(0),
      detail::kokkos::swiglu_backward_row<Execution, T, true>{gate_up.data(), dh.data(), weights.data(), row_slot.data(), dgate_up.data(),
                                                              weighted_h.data(), dweights.data(), dh.extent(1)});
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::add(view<const T, 1> x, view<T, 1> y) {
  ESFT_EXPECTS(x.size() == y.size(), "x and y have equally many elements");
  context_->each("esft add", y.size(), detail::kokkos::add_element<T>{x.data(), y.data()});
}

template <class Execution, class T>
void kokkos_backend<Execution, T>::adamw(view<T, 1> weight, view<accum_type, 1> master, view<accum_type, 1> m, view<accum_type, 1> v,
                                         view<const accum_type, 1> gradient, const adamw_step& step) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(weight.size() == master.size() && weight.size() == m.size() && weight.size() == v.size() && weight.size() == gradient.size(),
               "weight, state and gradient have equally many elements");
  k::update_parts<T> parts;
  parts.whole = {weight.data(), const_cast<accum_type*>(gradient.data()), 0, 0, 1};  // AdamW only reads it
  parts.size = weight.size();
  context_->teams("esft adamw", k::divide_up(weight.size(), k::elements_of_a_part),
                  k::adamw_part<Execution, T>{parts, master.data(), m.data(), v.data(), k::adamw_factors<accum_type>(step)});
}
template <class Execution, class T>
double kokkos_backend<Execution, T>::finish_sum(const double* parts, index count) {
  double* const total = const_cast<double*>(parts) + count;
  context_->each("esft sum", 1, detail::kokkos::sum_of_parts{parts, total, count});
  double result = 0;
  context_->download(&result, total, 1);
  return result;
}
template <class Execution, class T>
double kokkos_backend<Execution, T>::sum_of_squares(view<const accum_type, 1> gradient) {
  namespace k = detail::kokkos;
  const index count = k::divide_up(gradient.size(), k::terms_of_a_part);
  auto* const parts = context_->template scratch<double>(k::purpose::numbers, count + 1);
  context_->teams("esft squares", count, k::sum_part<Execution, accum_type, true>{gradient.data(), parts, gradient.size()});
  return finish_sum(parts, count);
}

template <class Execution, class T>
typename kokkos_backend<Execution, T>::update_list kokkos_backend<Execution, T>::make_update_list(
    std::span<const update_slice<kokkos_backend>> slices) {
  namespace k = detail::kokkos;
  std::vector<k::update_part<T>> parts;
  index elements = 0;
  for (const auto& slice : slices) {
    ESFT_EXPECTS(slice.value.size() == slice.gradient.size(), "a piece has as many gradients as elements");
    for (index first = 0; first < slice.value.size(); first += k::elements_of_a_part) {
      const index count = std::min(k::elements_of_a_part, slice.value.size() - first);
      parts.push_back({slice.value.data() + first, slice.gradient.data() + first, elements + first, static_cast<std::int32_t>(count),
                       slice.decays ? 1 : 0});
    }
    elements += slice.value.size();
  }
  update_list list{make_tensor<k::update_part<T>>(extents<1>{static_cast<index>(parts.size())}), elements};
  context_->upload(list.parts.data(), parts.data(), parts.size());
  return list;
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::clear_gradients(const update_list& list) {
  context_->teams("esft clear gradients", list.parts.size(), detail::kokkos::clear_part<Execution, T>{list.parts.data()});
}
template <class Execution, class T>
double kokkos_backend<Execution, T>::sum_of_squares(const update_list& list) {
  namespace k = detail::kokkos;
  auto* const sums = context_->template scratch<double>(k::purpose::numbers, list.parts.size() + 1);
  context_->teams("esft squares of all", list.parts.size(), k::square_part<Execution, T>{list.parts.data(), sums});
  return finish_sum(sums, list.parts.size());
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::adamw(const update_list& list, view<accum_type, 1> master, view<accum_type, 1> m, view<accum_type, 1> v,
                                         const adamw_step& step) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(master.size() == list.elements && m.size() == list.elements && v.size() == list.elements, "state [N] of all pieces");
  k::update_parts<T> parts;
  parts.listed = list.parts.data();
  context_->teams("esft adamw of all", list.parts.size(),
                  k::adamw_part<Execution, T>{parts, master.data(), m.data(), v.data(), k::adamw_factors<accum_type>(step)});
}

template <class Execution, class T>
void kokkos_backend<Execution, T>::rms_norm(view<const T, 2> x, view<const T, 1> weight, double epsilon, view<T, 2> y,
                                            view<accum_type, 1> rstd) {
  ESFT_EXPECTS(x.shape() == y.shape() && weight.size() == x.extent(1) && rstd.size() == x.extent(0), "x, y [N,D], weight [D], rstd [N]");
  context_->teams("esft rms norm", x.extent(0),
                  detail::kokkos::rms_norm_row<Execution, T>{x.data(), weight.data(), y.data(), rstd.data(), x.extent(1),
                                                             static_cast<accum_type>(epsilon)});
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::rms_norm_dx(view<const T, 2> dy, view<const T, 2> x, view<const T, 1> weight,
                                               view<const accum_type, 1> rstd, view<T, 2> dx, write_mode mode) {
  ESFT_EXPECTS(dy.shape() == x.shape() && dx.shape() == x.shape() && weight.size() == x.extent(1) && rstd.size() == x.extent(0),
               "dy, x, dx [N,D], weight [D], rstd [N]");
  context_->teams("esft rms norm dx", x.extent(0),
                  detail::kokkos::rms_norm_dx_row<Execution, T>{dy.data(), x.data(), weight.data(), rstd.data(), dx.data(), x.extent(1),
                                                                mode == write_mode::accumulate});
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::rms_norm_dw(view<const T, 2> dy, view<const T, 2> x, view<const accum_type, 1> rstd,
                                               view<accum_type, 1> dweight) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(dy.shape() == x.shape() && dweight.size() == x.extent(1) && rstd.size() == x.extent(0),
               "dy, x [N,D], rstd [N], dweight [D]");
  context_->each("esft rms norm dw", k::divide_up(x.extent(1), k::columns_at_once<Execution>),
                 k::rms_norm_dw_columns<Execution, T>{dy.data(), x.data(), rstd.data(), dweight.data(), x.extent(0), x.extent(1)});
}

}  // namespace esft
