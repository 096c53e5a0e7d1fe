// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `kokkos_backend<ExecutionSpace, T>`: every primitive as Kokkos kernels, one source for the machines that Kokkos runs on.

#include <esft/backend/backend.hpp>
#include <esft/backends/kokkos/context.hpp>
#include <esft/backends/kokkos/interop.hpp>
#include <esft/backends/kokkos/update.hpp>

#include <algorithm>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace esft {

/// Computes in a Kokkos execution space. `T` is what weights and activations are stored as: float, double, or bf16 with float sums.
/// Two runs on the same execution space give the same bits: sums have no atomics and an order that shapes alone decide. On the host they do
/// not depend on the number of threads either. With ESFT_KOKKOS_KERNELS both hold for dense products only as far as that library and the
/// BLAS behind it hold them. Not for two threads at once: give each its own backend.
/// The meaning of each member is the table in backend.hpp.
///
/// Your program calls `Kokkos::initialize`, and this is gone, its tensors too, before `Kokkos::finalize`.
///
/// Where the macro ESFT_KOKKOS_COMPILED is defined (the CMake target does so inside this project) the kernels of the default execution
/// space come from a library that is compiled once; elsewhere they are compiled here.
template <class ExecutionSpace = Kokkos::DefaultExecutionSpace, class T = float>
class kokkos_backend {
  static_assert(std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, bf16>, "kokkos_backend stores float, double or bf16");

 public:
  using value_type = T;
  using accum_type = accumulate_t<T>;
  using execution_space = ExecutionSpace;
  using memory_space = kokkos_memory_t<typename ExecutionSpace::memory_space>;
  static constexpr std::string_view name = "kokkos";

  template <class U, std::size_t R>
  using view = tensor_view<U, R, memory_space>;
  using ids = view<const std::int32_t, 1>;
  using slots = view<const std::int32_t, 2>;

  /// On the default instance. @throws usage_error if Kokkos has not been initialised
  kokkos_backend() : kokkos_backend(default_instance()) {}
  /// On an instance of yours (a stream, a partition of the threads): what you queue there before and after runs in that order.
  /// @throws usage_error if Kokkos has not been initialised
  explicit kokkos_backend(const ExecutionSpace& instance);

  /// Execution space, version of Kokkos and number of threads.
  [[nodiscard]] std::string description() const;
  [[nodiscard]] const ExecutionSpace& instance() const noexcept { return context_->execution; }
  /// Waits until everything queued has run. @throws contract_violation for ids out of range that kernels have found
  void synchronise() { context_->wait(); }

  template <class U, std::size_t R>
  [[nodiscard]] tensor<U, R, memory_space> make_tensor(extents<R> shape) {
    std::size_t bytes = 0;
    ESFT_EXPECTS(!__builtin_mul_overflow(static_cast<std::size_t>(element_count(shape)), sizeof(U), &bytes), "the bytes must fit 64 bits");
    return {static_cast<U*>(allocate(bytes)), shape, release};
  }
  template <class U, std::size_t R>
  void fill(view<U, R> x, std::type_identity_t<U> value) {
    static_assert(std::is_trivially_copyable_v<U>);
    context_->each("esft fill", x.size(), detail::kokkos::fill_element<U>{x.data(), value});
  }
  template <class U, class V, std::size_t R>
    requires std::same_as<std::remove_const_t<U>, V>
  void copy(view<U, R> from, view<V, R> to) {
    ESFT_EXPECTS(from.size() == to.size(), "both views have equally many elements");
    copy_bytes(to.data(), from.data(), static_cast<std::size_t>(to.size()) * sizeof(V));
  }
  template <class H, class U, std::size_t R>
  void copy_in(std::span<H> host, view<U, R> to) {
    ESFT_EXPECTS(static_cast<index>(host.size()) == to.size(), "host and tensor have equally many elements");
    if constexpr (std::same_as<std::remove_const_t<H>, U>) {
      upload(to.data(), host.data(), host.size_bytes());
    } else {
      std::vector<U> converted(host.size());
      for (std::size_t i = 0; i < host.size(); ++i) converted[i] = static_cast<U>(host[i]);
      upload(to.data(), converted.data(), converted.size() * sizeof(U));
    }
  }
  template <class H, class U, std::size_t R>
  void copy_out(view<U, R> from, std::span<H> host) {
    ESFT_EXPECTS(static_cast<index>(host.size()) == from.size(), "host and tensor have equally many elements");
    using element = std::remove_const_t<U>;
    if constexpr (std::same_as<element, H>) {
      download(host.data(), from.data(), host.size_bytes());
    } else {
      std::vector<element> stored(host.size());
      download(stored.data(), from.data(), stored.size() * sizeof(element));
      for (std::size_t i = 0; i < host.size(); ++i) host[i] = static_cast<H>(stored[i]);
    }
  }
  template <class Body>
  void for_each(index count, Body body) {
    if constexpr (detail::kokkos::on_cores<ExecutionSpace> && detail::kokkos::runs_at_once<ExecutionSpace>) {
      // One kernel for all function objects: compiling one for each takes longer than calling through a pointer.
      for_ranges(
          count,
          [](const void* context, index begin, index end) {
            for (index i = begin; i < end; ++i) (*static_cast<const Body*>(context))(i);
          },
          &body);
    } else {
      context_->each("esft for each", count, detail::kokkos::for_each_element<Body>{body});
    }
  }

  // ---- matrix products

  void linear(view<const T, 2> x, view<const T, 2> w, view<T, 2> y, write_mode mode);
  void linear_dx(view<const T, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode);
  void linear_dw(view<const T, 2> dy, view<const T, 2> x, view<accum_type, 2> dw);
  void logits(view<const T, 2> x, view<const T, 2> w, view<accum_type, 2> y);
  void logits_dx(view<const accum_type, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode);
  void logits_dw(view<const accum_type, 2> dy, view<const T, 2> x, view<accum_type, 2> dw);
  void grouped_linear(view<const T, 2> x, view<const T, 3> w, ids offsets, view<T, 2> y);
  void grouped_linear_dx(view<const T, 2> dy, view<const T, 3> w, ids offsets, view<T, 2> dx);
  void grouped_linear_dw(view<const T, 2> dy, view<const T, 2> x, ids offsets, std::span<const std::int32_t> selected,
                         view<accum_type, 3> dw);

  // ---- routing

  void dispatch(slots expert_ids, view<std::int32_t, 1> offsets, view<std::int32_t, 1> row_slot, view<std::int32_t, 2> slot_row);
  void gather(view<const T, 2> x, ids row_slot, index active, view<T, 2> y);
  void gather_sum(view<const T, 2> y, slots slot_row, view<T, 2> out, write_mode mode);
  void combine(view<const T, 2> y, slots slot_row, view<const accum_type, 2> weights, view<T, 2> out, write_mode mode);

  // ---- activations and elementwise

  void swiglu(view<const T, 2> gate_up, view<T, 2> h);
  void swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<T, 2> dgate_up);
  void weighted_swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<const accum_type, 2> weights, ids row_slot,
                                view<T, 2> dgate_up, view<T, 2> weighted_h, view<accum_type, 2> dweights);
  void add(view<const T, 1> x, view<T, 1> y);
  void adamw(view<T, 1> weight, view<accum_type, 1> master, view<accum_type, 1> m, view<accum_type, 1> v,
             view<const accum_type, 1> gradient, const adamw_step& step);
  [[nodiscard]] double sum_of_squares(view<const accum_type, 1> gradient);

  // ---- all trained pieces, each in one launch

  /// Trained pieces, cut into parts where kernels find them.
  struct update_list {
    tensor<detail::kokkos::update_part<T>, 1, memory_space> parts;
    index elements = 0;
  };
  [[nodiscard]] update_list make_update_list(std::span<const update_slice<kokkos_backend>> slices);
  void clear_gradients(const update_list& list);
  [[nodiscard]] double sum_of_squares(const update_list& list);
  void adamw(const update_list& list, view<accum_type, 1> master, view<accum_type, 1> m, view<accum_type, 1> v, const adamw_step& step);

  // ---- around the MoE layers

  void embedding(ids tokens, view<const T, 2> table, view<T, 2> y);
  void embedding_dw(ids tokens, view<const T, 2> dy, view<accum_type, 2> dtable);
  void rms_norm(view<const T, 2> x, view<const T, 1> weight, double epsilon, view<T, 2> y, view<accum_type, 1> rstd);
  void rms_norm_dx(view<const T, 2> dy, view<const T, 2> x, view<const T, 1> weight, view<const accum_type, 1> rstd, view<T, 2> dx,
                   write_mode mode);
  void rms_norm_dw(view<const T, 2> dy, view<const T, 2> x, view<const accum_type, 1> rstd, view<accum_type, 1> dweight);
  void rope(view<T, 3> x, ids positions, double theta, int direction);
  void attention(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, ids key_begin, ids key_end, double scale, view<T, 3> o,
                 view<accum_type, 2> lse);
  void attention_backward(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, view<const T, 3> o, view<const accum_type, 2> lse,
                          view<const T, 3> d_o, ids key_begin, ids key_end, double scale, view<T, 3> dq, view<T, 3> dk, view<T, 3> dv);
  [[nodiscard]] double cross_entropy(view<accum_type, 2> logits, ids labels, double scale);

 private:
  using range_body = void (*)(const void* context, index begin, index end);
  [[nodiscard]] static ExecutionSpace default_instance();
  [[nodiscard]] static void* allocate(std::size_t bytes);
  static void release(void* unused, void* data);
  void for_ranges(index count, range_body body, const void* context);
  void copy_bytes(void* to, const void* from, std::size_t bytes);
  void upload(void* to, const void* from, std::size_t bytes);
  void download(void* to, const void* from, std::size_t bytes);
  [[nodiscard]] double finish_sum(const double* parts, index count);

  std::unique_ptr<detail::kokkos::context<ExecutionSpace>> context_;
};

static_assert(transformer_backend<kokkos_backend<>>);
static_assert(transformer_backend<kokkos_backend<Kokkos::DefaultExecutionSpace, bf16>>);
static_assert(has_update_list<kokkos_backend<>> && has_update_list<kokkos_backend<Kokkos::DefaultExecutionSpace, bf16>>);

}  // namespace esft

#if defined(ESFT_KOKKOS_COMPILED)
namespace esft {
extern template class kokkos_backend<Kokkos::DefaultExecutionSpace, float>;
extern template class kokkos_backend<Kokkos::DefaultExecutionSpace, double>;
extern template class kokkos_backend<Kokkos::DefaultExecutionSpace, bf16>;
}  // namespace esft
#else
#include <esft/backends/kokkos/definitions.hpp>
#endif
