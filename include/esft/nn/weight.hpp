// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `weight`: a parameter tensor with its role in the type, and a gradient that exists only while it is trained.

#include <esft/backend/backend.hpp>
#include <esft/core/trainable_set.hpp>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace esft {

template <backend Backend, std::size_t Rank>
struct low_rank_pair;
template <backend Backend>
struct low_rank_mixture;

/// A parameter of a model. Rank 3 is a stack over the routed experts of a layer; of such a stack any subset may be trained,
/// and the gradient has one slice per trained expert, never one per expert.
/// Matrices lie in the order that the backend's kernels read (`layout_for`), and their gradient in the same: frozen weights are packed
/// when they are loaded and never again, trained ones are updated where they lie.
template <backend Backend, std::size_t Rank, parameter_role Role>
struct weight {
  static constexpr parameter_role role = Role;
  static constexpr std::size_t rank = Rank;
  static constexpr bool stacked = Rank == 3;
  using backend_type = Backend;
  template <class T>
  using storage =
      std::conditional_t<Rank == 1, tensor_t<Backend, T, 1>, matrix_tensor<T, Rank < 2 ? 2 : Rank, typename Backend::memory_space>>;

  storage<value_t<Backend>> value;     ///< @shape [D], [N, K] or [E, N, K]; empty where the model has no such parameter
  storage<accum_t<Backend>> gradient;  ///< empty while frozen; [S, N, K] for S trained experts of a stack
  std::vector<std::int32_t> selected;  ///< trained experts of a stack, ascending
  std::unique_ptr<low_rank_pair<Backend, Rank>> low_rank;  ///< factors beside the matrix; null for almost every parameter
  std::unique_ptr<low_rank_mixture<Backend>> mixture;      ///< several pairs of them and their router; of a single matrix only

  [[nodiscard]] bool exists() const noexcept { return value.size() > 0; }
  [[nodiscard]] bool trained() const noexcept { return gradient.size() > 0; }
  /// Whether the parameter or its factors are trained: whether anybody wants a gradient here.
  [[nodiscard]] bool learns() const noexcept { return trained() || factors_trained(); }
  [[nodiscard]] bool factors_trained() const noexcept { return (low_rank && low_rank->trained()) || (mixture && mixture->trained()); }

  /// The operands of matrix products.
  [[nodiscard]] matrix_t<Backend, const value_t<Backend>, Rank> matrix() const
    requires(Rank > 1)
  {
    return operand<const value_t<Backend>>(value);
  }
  [[nodiscard]] matrix_t<Backend, accum_t<Backend>, Rank> gradient_matrix()
    requires(Rank > 1)
  {
    return operand<accum_t<Backend>>(gradient);
  }
  /// All elements, in the order of the layout.
  [[nodiscard]] auto elements() { return elements_of(value); }
  [[nodiscard]] auto elements() const { return elements_of(value); }
  [[nodiscard]] auto gradient_elements() { return elements_of(gradient); }
  /// Rows [first, first + count) of the parameter, or of expert `part` of a stack: how files see it. A vector is one column.
  [[nodiscard]] auto rows(index part, index first, index count) { return rows_of(value, part, first, count); }
  [[nodiscard]] auto rows(index part, index first, index count) const { return rows_of(value, part, first, count); }
  /// The same of the gradient; `part` counts the trained experts.
  [[nodiscard]] auto gradient_rows(index part, index first, index count) const { return rows_of(gradient, part, first, count); }
  [[nodiscard]] matrix_layout layout() const noexcept {
    if constexpr (Rank == 1) {
      return {};
    } else {
      return value.layout();
    }
  }
  /// Parts of a stack, and the extents of one part; a vector is one column.
  [[nodiscard]] index parts() const noexcept { return stacked ? value.extent(0) : 1; }
  [[nodiscard]] extents<2> part_shape() const noexcept {
    if constexpr (Rank == 1) {
      return {value.extent(0), 1};
    } else {
      return {value.extent(Rank - 2), value.extent(Rank - 1)};
    }
  }

  /// Frees the gradient and the factors: the parameter is immutable from here on, and all that is computed with.
  void freeze() {
    gradient = {};
    selected.clear();
    remove_factors();
  }
  /// Takes away what stands beside the matrix.
  void remove_factors() {
    low_rank.reset();
    mixture.reset();
  }
  /// Makes the whole parameter trainable, with a zero gradient.
  void train(Backend& backend) {
    allocate_gradient(backend, value.shape());
    if constexpr (stacked) {
      selected.resize(static_cast<std::size_t>(value.extent(0)));
      std::iota(selected.begin(), selected.end(), 0);
    }
  }
  /// Makes the named experts of a stack trainable. @pre ascending, distinct, in [0, E)
  void train(Backend& backend, const std::vector<std::int32_t>& experts)
    requires stacked
  {
    freeze();
    if (experts.empty()) return;
    selected = experts;
    allocate_gradient(backend, extents<3>{static_cast<index>(experts.size()), value.extent(1), value.extent(2)});
  }

 private:
  template <class T>
  static auto operand(auto& stored) -> matrix_t<Backend, T, Rank> {
    if constexpr (tiling_backend<Backend>) {
      return stored.matrix();
    } else {
      return stored.view();
    }
  }
  static auto elements_of(auto& stored) {
    if constexpr (Rank == 1) {
      return stored.view();
    } else {
      return stored.elements();
    }
  }
  auto rows_of(auto& stored, index part, index first, index count) const {
    const extents<2> shape = part_shape();
    auto* const data = stored.data() + part * shape[0] * shape[1];
    using element = std::remove_pointer_t<decltype(data)>;
    using space = typename Backend::memory_space;
    return matrix_rows<element, space>{tensor_view<element, 2, space>(data, shape), layout(), first, count};
  }
  void allocate_gradient(Backend& backend, extents<Rank> shape) {
    auto zeros = backend.template make_tensor<accum_t<Backend>>(shape);
    backend.fill(zeros.view(), accum_t<Backend>{});
    if constexpr (Rank == 1) {
      gradient = std::move(zeros);
    } else {
      gradient = storage<accum_t<Backend>>(std::move(zeros), value.layout());
    }
  }
};

/// Two small matrices beside a frozen one, or beside some experts of a frozen stack: y = x W^T + scale (x A^T) B^T. All that is trained
/// of the sum are A and B, so gradients, optimizer state and files exist for them alone; the product B A is never formed.
template <backend Backend, std::size_t Rank>
struct low_rank_pair {
  weight<Backend, Rank, parameter_role::low_rank_a> a;  ///< @shape [r, K] or [S, r, K]
  weight<Backend, Rank, parameter_role::low_rank_b> b;  ///< @shape [N, r] or [S, N, r]
  std::vector<std::int32_t> experts;                    ///< of a stack: whom the S pairs belong to, ascending
  low_rank_options how;
  std::uint64_t stream = 0;           ///< of the dropout's random numbers: another one for every matrix of a model
  std::optional<std::uint64_t> draw;  ///< which dropout mask a training pass uses; absent: no dropout

  [[nodiscard]] bool trained() const noexcept { return a.trained(); }
};

/// Several pairs of factors beside one frozen matrix, and the router that says which of them a token uses. What they consist of is said
/// here, so that they are updated, saved and counted as all weights are; what they compute belongs to `moe/low_rank_mixture.hpp`, above.
template <backend Backend>
struct low_rank_mixture {
  using rows = view_t<Backend, value_t<Backend>, 2>;
  using const_rows = view_t<Backend, const value_t<Backend>, 2>;

  weight<Backend, 2, parameter_role::low_rank_router> router;  ///< @shape [N + M, K], a row for each pair and each null expert
  low_rank_pair<Backend, 3> pairs;                             ///< @shape A [N, r, K], B [N, rows of the matrix, r]
  low_rank_mixture_options how;

  /// Of the training pass that runs, as `low_rank_pair::draw` is: set before it, read after it.
  struct training_pass {
    view_t<Backend, const std::int32_t, 1> sample{};  ///< [T], -1 marks padding, which the balance loss does not count
    double balance_scale = 1;                         ///< on the gradient of the balance loss
    double balance_loss = 0;                          ///< what this matrix added to it
  } pass;

  low_rank_mixture() = default;
  low_rank_mixture(const low_rank_mixture&) = delete;
  low_rank_mixture& operator=(const low_rank_mixture&) = delete;
  virtual ~low_rank_mixture() = default;

  /// y += what the chosen pairs add. @shape x [T, K], y [T, N]
  virtual void forward(Backend& backend, const_rows x, rows y) const = 0;
  /// Adds to the gradients of pairs and router where they are trained, and to dx unless it is null.
  virtual void backward(Backend& backend, const_rows dy, const_rows x, rows* dx) = 0;

  [[nodiscard]] bool trained() const noexcept { return router.trained(); }
};

template <class T>
inline constexpr bool is_weight = false;
template <class Backend, std::size_t Rank, parameter_role Role>
inline constexpr bool is_weight<weight<Backend, Rank, Role>> = true;

/// Allocates the value of a weight, uninitialised, in the layout that the backend reads best. The embedding is read by rows and biases
/// are added to rows, so they stay row-major.
template <class Backend, std::size_t Rank, parameter_role Role>
void allocate(Backend& backend, weight<Backend, Rank, Role>& parameter, extents<Rank> shape) {
  auto elements = backend.template make_tensor<value_t<Backend>>(shape);
  if constexpr (Rank == 1) {
    parameter.value = std::move(elements);
  } else {
    constexpr bool by_rows = Role == parameter_role::embedding || is_bias(Role);
    const matrix_layout layout = by_rows ? matrix_layout{} : layout_for<Backend>(shape[Rank - 2], shape[Rank - 1]);
    parameter.value = matrix_tensor<value_t<Backend>, Rank, typename Backend::memory_space>(std::move(elements), layout);
  }
}

/// Puts a weight that was filled in row-major order into the layout that the backend reads best, in place, its gradient too. Weights made
/// by `allocate` already are. @cost reads and writes every element once
template <class Backend, std::size_t Rank, parameter_role Role>
void pack(Backend& backend, weight<Backend, Rank, Role>& parameter) {
  if constexpr (Rank > 1 && tiling_backend<Backend> && Role != parameter_role::embedding && !is_bias(Role)) {
    const extents<2> shape = parameter.part_shape();
    const matrix_layout from = parameter.layout();
    const matrix_layout to = layout_for<Backend>(shape[0], shape[1]);
    const auto permute = [&](auto& stored) {
      if (stored.empty() || from == to) return;
      const auto parts = stored.matrix().elements.reshape(extents<3>{stored.size() / (shape[0] * shape[1]), shape[0], shape[1]});
      for (index part = 0; part < parts.extent(0); ++part) backend.rearrange(parts[part], from, to);
      stored.relabel(to);
    };
    permute(parameter.gradient);
    permute(parameter.value);
  } else {
    static_cast<void>(backend), static_cast<void>(parameter);
  }
}

/// Host values in row-major order become the value of a weight. @pre equally many elements
template <class Backend, std::size_t Rank, parameter_role Role, class H>
void copy_in(Backend& backend, std::span<H> host, weight<Backend, Rank, Role>& to) {
  if constexpr (Rank == 1) {
    backend.copy_in(host, to.value.view());
  } else {
    copy_in(backend, host, to.value.matrix());
  }
}
/// The value of a weight in row-major order. @pre equally many elements
template <class Backend, std::size_t Rank, parameter_role Role, class H>
void copy_out(Backend& backend, const weight<Backend, Rank, Role>& from, std::span<H> host) {
  if constexpr (Rank == 1) {
    backend.copy_out(from.value.view(), host);
  } else {
    copy_out(backend, from.value.matrix(), host);
  }
}

}  // namespace esft
