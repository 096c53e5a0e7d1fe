// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Members of `eigen_backend` that update what is trained: one piece, or all of them.

#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/machine.hpp>
#include <esft/backends/eigen/update.hpp>

#include <algorithm>
#include <numeric>
#include <vector>

namespace esft {

template <class T>
void eigen_backend<T>::adamw(view<T, 1> weight, view<float, 1> master, view<float, 1> m, view<float, 1> v, view<const float, 1> gradient,
                             const adamw_step& step) {
  float* const only_read = const_cast<float*>(gradient.data());  // adamw clears no gradients
  const update_slice<eigen_backend> piece{weight, {only_read, gradient.shape()}, true};
  adamw(make_update_list({&piece, 1}), master, m, v, step);
}

template <class T>
double eigen_backend<T>::sum_of_squares(view<const float, 1> gradient) {
  constexpr index block = 65536;
  std::vector<double> parts(static_cast<std::size_t>((gradient.size() + block - 1) / block));
  machine_->run(static_cast<index>(parts.size()), detail::eigen::moving * static_cast<double>(gradient.size()), [&](index part, int) {
    detail::eigen::call<detail::eigen::sum_squares>(machine_->set, gradient.data() + part * block,
                                                    std::min(block, gradient.size() - part * block),
                                                    &parts[static_cast<std::size_t>(part)]);
  });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

template <class T>
auto eigen_backend<T>::make_update_list(std::span<const update_slice<eigen_backend>> slices) -> update_list {
  constexpr index block = 32768;  // elements: a megabyte of all planes together
  update_list list;
  for (const auto& slice : slices) {
    ESFT_EXPECTS(slice.value.size() == slice.gradient.size(), "weight and gradient have equally many elements");
    for (index i = 0; i < slice.value.size(); i += block) {
      const index count = std::min(block, slice.value.size() - i);
      list.parts.push_back({slice.value.data() + i, slice.gradient.data() + i, list.elements + i, count, slice.decays});
    }
    list.elements += slice.value.size();
  }
  return list;
}

template <class T>
void eigen_backend<T>::clear_gradients(const update_list& list) {
  machine_->run(static_cast<index>(list.parts.size()), detail::eigen::moving * static_cast<double>(list.elements), [&](index i, int) {
    const auto& part = list.parts[static_cast<std::size_t>(i)];
    std::fill_n(part.gradient, part.count, 0.0F);
  });
}

template <class T>
double eigen_backend<T>::sum_of_squares(const update_list& list) {
  std::vector<double> sums(list.parts.size());
  machine_->run(static_cast<index>(sums.size()), detail::eigen::moving * static_cast<double>(list.elements), [&](index i, int) {
    const auto& part = list.parts[static_cast<std::size_t>(i)];
    detail::eigen::call<detail::eigen::sum_squares>(machine_->set, static_cast<const float*>(part.gradient), part.count,
                                                    &sums[static_cast<std::size_t>(i)]);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

template <class T>
void eigen_backend<T>::adamw(const update_list& list, view<float, 1> master, view<float, 1> m, view<float, 1> v, const adamw_step& step) {
  ESFT_EXPECTS(master.size() == list.elements && m.size() == list.elements && v.size() == list.elements, "state [N] of all pieces");
  const detail::eigen::adamw_factors decaying(step);
  detail::eigen::adamw_factors constant(step);
  constant.decay = 0;
  machine_->run(static_cast<index>(list.parts.size()), 2 * detail::eigen::moving * static_cast<double>(list.elements), [&](index i, int) {
    const auto& part = list.parts[static_cast<std::size_t>(i)];
    detail::eigen::call<detail::eigen::adamw_elements>(machine_->set, static_cast<const float*>(part.gradient), part.count,
                                                       part.decays ? &decaying : &constant, m.data() + part.state, v.data() + part.state,
                                                       master.data() + part.state, part.weight);
  });
}

}  // namespace esft
