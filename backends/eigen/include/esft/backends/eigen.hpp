// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `eigen_backend<T>`: the CPU backend, with kernels, threads and memory of its own. Eigen's product serves row-major weights and attention
/// on a CPU without AVX2.

#include <esft/backend/backend.hpp>
#include <esft/backends/eigen/block_cache.hpp>
#include <esft/backends/eigen/rows.hpp>

#include <algorithm>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace esft {

namespace detail::eigen {
enum class isa : std::uint8_t;
struct machine;
}  // namespace detail::eigen

/// Computes on this machine's CPU. `T` is what weights and activations are stored as, float or bf16; sums are always float.
/// Results are the same bits for any number of threads. Not for two threads at once: give each its own backend.
/// The meaning of each member is the table in backend.hpp.
///
/// Where the macro ESFT_EIGEN_COMPILED is defined (the CMake target does so inside this project) the kernels come from a library that
/// is compiled once; elsewhere they are compiled here.
template <class T>
class eigen_backend {
  static_assert(std::same_as<T, float> || std::same_as<T, bf16>, "eigen_backend stores float or bf16; for double use reference_backend");

 public:
  using value_type = T;
  using accum_type = float;
  using memory_space = host_space;
  static constexpr std::string_view name = "eigen";
  /// Weights are fastest in this order; one order serves y = x w^T, dx = dy w and dw, so that a weight is kept once.
  static constexpr matrix_layout tile = detail::eigen::kernel_layout<T>;

  template <class U, std::size_t R>
  using view = host_view<U, R>;
  template <class U, std::size_t R>
  using matrix = matrix_view<U, R, host_space>;
  using rows = gathered_rows<const T, host_space>;
  using factors = grouped_factors<T, host_space>;
  using ids = host_view<const std::int32_t, 1>;
  using slots = host_view<const std::int32_t, 2>;
  /// What sums are where that is not T; else another type, because some compilers instantiate members whose constraints fail.
  using sum_type = std::conditional_t<std::same_as<T, float>, double, float>;

  /// `threads` counts the calling one; 0 takes as many as the hardware has.
  explicit eigen_backend(int threads = 0);
  ~eigen_backend();
  eigen_backend(eigen_backend&&) noexcept;
  eigen_backend& operator=(eigen_backend&&) noexcept;

  /// Number of threads that compute.
  [[nodiscard]] int threads() const noexcept;
  /// The best instruction set in use: "generic", "avx2", "avx512"; for bf16 also "avx512_bf16" and "amx".
  [[nodiscard]] std::string_view isa() const noexcept;
  /// Matrix products served so far by the kernels called "plain" (row-major), "panels" (float arithmetic), "pairs" (AVX512_BF16) or
  /// "tiles" (AMX).
  [[nodiscard]] std::int64_t products(std::string_view kernels) const;
  /// Chooses older kernels than this CPU offers, by the names of `isa`: for tests, and to compare. @pre the CPU has them
  void use(std::string_view isa);

  template <class U, std::size_t R>
  [[nodiscard]] host_tensor<U, R> make_tensor(extents<R> shape) {
    return detail::eigen::make_cached_tensor<U, R>(shape);
  }
  template <class U, std::size_t R>
  void fill(view<U, R> x, std::type_identity_t<U> value) {
    std::fill_n(x.data(), x.size(), value);
  }
  template <class U, class V, std::size_t R>
    requires std::same_as<std::remove_const_t<U>, V>
  void copy(view<U, R> from, view<V, R> to) {
    ESFT_EXPECTS(from.size() == to.size(), "both views have equally many elements");
    std::copy_n(from.data(), from.size(), to.data());
  }
  template <class H, class U, std::size_t R>
  void copy_in(std::span<H> host, view<U, R> to) {
    ESFT_EXPECTS(static_cast<index>(host.size()) == to.size(), "host and tensor have equally many elements");
    for (index i = 0; i < to.size(); ++i) to.data()[i] = static_cast<U>(host[static_cast<std::size_t>(i)]);
  }
  template <class H, class U, std::size_t R>
  void copy_out(view<U, R> from, std::span<H> host) {
    ESFT_EXPECTS(static_cast<index>(host.size()) == from.size(), "host and tensor have equally many elements");
    for (index i = 0; i < from.size(); ++i) host[static_cast<std::size_t>(i)] = static_cast<H>(from.data()[i]);
  }
  template <class Body>
  void for_each(index count, Body body) {
    for_ranges(
        count,
        [](const void* context, index begin, index end) {
          for (index i = begin; i < end; ++i) (*static_cast<const Body*>(context))(i);
        },
        &body);
  }

  // ---- matrix products

  void linear(view<const T, 2> x, matrix<const T, 2> w, view<T, 2> y, write_mode mode);
  void linear_dx(view<const T, 2> dy, matrix<const T, 2> w, view<T, 2> dx, write_mode mode);
  void linear_dw(view<const T, 2> dy, view<const T, 2> x, matrix<float, 2> dw);
  void logits(view<const T, 2> x, matrix<const T, 2> w, view<float, 2> y);
  void logits_dx(view<const float, 2> dy, matrix<const T, 2> w, view<T, 2> dx, write_mode mode);
  void logits_dw(view<const float, 2> dy, view<const T, 2> x, matrix<float, 2> dw);

  void grouped_linear(view<const T, 2> x, matrix<const T, 3> w, ids offsets, view<T, 2> y);
  void grouped_linear(rows x, matrix<const T, 3> w, ids offsets, view<T, 2> y);
  void grouped_linear_dx(view<const T, 2> dy, matrix<const T, 3> w, ids offsets, view<T, 2> dx);
  void grouped_linear_dx(rows dy, matrix<const T, 3> w, ids offsets, view<T, 2> dx);
  void grouped_linear_dw(view<const T, 2> dy, view<const T, 2> x, ids offsets, std::span<const std::int32_t> selected, matrix<float, 3> dw);
  void grouped_linear_dw(rows dy, view<const T, 2> x, ids offsets, std::span<const std::int32_t> selected, matrix<float, 3> dw);
  void grouped_linear_dw(view<const T, 2> dy, rows x, ids offsets, std::span<const std::int32_t> selected, matrix<float, 3> dw);
  void grouped_linear(view<const T, 2> x, matrix<const T, 3> w, ids offsets, std::span<const std::int32_t> selected, view<T, 2> y,
                      write_mode mode);
  void grouped_linear(rows x, matrix<const T, 3> w, ids offsets, std::span<const std::int32_t> selected, view<T, 2> y, write_mode mode);
  void grouped_linear_dx(view<const T, 2> dy, matrix<const T, 3> w, ids offsets, std::span<const std::int32_t> selected, view<T, 2> dx,
                         write_mode mode);
  void grouped_linear_dx(rows dy, matrix<const T, 3> w, ids offsets, std::span<const std::int32_t> selected, view<T, 2> dx,
                         write_mode mode);
  void grouped_swiglu(view<const T, 2> x, matrix<const T, 3> w, ids offsets, view<T, 2> gate_up, view<T, 2> h);
  void grouped_swiglu(rows x, matrix<const T, 3> w, ids offsets, view<T, 2> gate_up, view<T, 2> h);
  bool grouped_mlp(rows x, matrix<const T, 3> gate_up_weight, matrix<const T, 3> down_weight, ids offsets, const factors* gate_up_factors,
                   const factors* down_factors, view<T, 2> gate_up, view<T, 2> y)
    requires std::same_as<T, bf16>;
  bool grouped_mlp_backward(rows dy, matrix<const T, 3> gate_up_weight, matrix<const T, 3> down_weight, ids offsets,
                            std::span<const std::int32_t> selected, const factors* gate_up_factors, const factors* down_factors,
                            view<const T, 2> gate_up, view<const float, 2> weights, ids row_slot, view<T, 2> dgate_up,
                            view<T, 2> weighted_h, view<T, 2> dx, view<float, 2> dweights)
    requires std::same_as<T, bf16>;

  /// Permutes one matrix in place from one layout to another. @pre both fit its extents
  void rearrange(view<T, 2> values, matrix_layout from, matrix_layout to);
  void rearrange(view<sum_type, 2> sums, matrix_layout from, matrix_layout to)
    requires(!std::same_as<T, float>);

  // ---- routing

  void dispatch(slots expert_ids, view<std::int32_t, 1> offsets, view<std::int32_t, 1> row_slot, view<std::int32_t, 2> slot_row);
  void gather(view<const T, 2> x, ids row_slot, index active, view<T, 2> y);
  void gather_sum(view<const T, 2> y, slots slot_row, view<T, 2> out, write_mode mode);
  void combine(view<const T, 2> y, slots slot_row, view<const float, 2> weights, view<T, 2> out, write_mode mode);

  // ---- activations

  void swiglu(view<const T, 2> gate_up, view<T, 2> h);
  void swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<T, 2> dgate_up);
  void weighted_swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<const float, 2> weights, ids row_slot,
                                view<T, 2> dgate_up, view<T, 2> weighted_h, view<float, 2> dweights);

  // ---- elementwise

  void add(view<const T, 1> x, view<T, 1> y);
  void adamw(view<T, 1> weight, view<float, 1> master, view<float, 1> m, view<float, 1> v, view<const float, 1> gradient,
             const adamw_step& step);
  [[nodiscard]] double sum_of_squares(view<const float, 1> gradient);

  // ---- all trained pieces, shared out among the threads at once: those of a small model are too small one by one

  /// Trained pieces, cut into parts.
  struct update_list {
    struct part {
      T* weight;
      float* gradient;
      index state;  ///< where its moments begin
      index count;
      bool decays;
    };
    std::vector<part> parts;
    index elements = 0;
  };
  [[nodiscard]] update_list make_update_list(std::span<const update_slice<eigen_backend>> slices);
  void clear_gradients(const update_list& list);
  [[nodiscard]] double sum_of_squares(const update_list& list);
  void adamw(const update_list& list, view<float, 1> master, view<float, 1> m, view<float, 1> v, const adamw_step& step);

  // ---- around the MoE layers

  void embedding(ids tokens, view<const T, 2> table, view<T, 2> y);
  void embedding_dw(ids tokens, view<const T, 2> dy, view<float, 2> dtable);
  void rms_norm(view<const T, 2> x, view<const T, 1> weight, double epsilon, view<T, 2> y, view<float, 1> rstd);
  void rms_norm_dx(view<const T, 2> dy, view<const T, 2> x, view<const T, 1> weight, view<const float, 1> rstd, view<T, 2> dx,
                   write_mode mode);
  void rms_norm_dw(view<const T, 2> dy, view<const T, 2> x, view<const float, 1> rstd, view<float, 1> dweight);
  void rope(view<T, 3> x, ids positions, double theta, int direction);
  void attention(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, ids key_begin, ids key_end, double scale, view<T, 3> o,
                 view<float, 2> lse);
  void attention_backward(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, view<const T, 3> o, view<const float, 2> lse,
                          view<const T, 3> d_o, ids key_begin, ids key_end, double scale, view<T, 3> dq, view<T, 3> dk, view<T, 3> dv);
  [[nodiscard]] double cross_entropy(view<float, 2> logits, ids labels, double scale);

 private:
  using range_body = void (*)(const void* context, index begin, index end);
  void for_ranges(index count, range_body body, const void* context);

  std::unique_ptr<detail::eigen::machine> machine_;
};

static_assert(transformer_backend<eigen_backend<float>>);
static_assert(transformer_backend<eigen_backend<bf16>>);
static_assert(has_update_list<eigen_backend<float>> && has_update_list<eigen_backend<bf16>>);
static_assert(has_selected_products<eigen_backend<float>> && has_selected_products<eigen_backend<bf16>>);
static_assert(tiling_backend<eigen_backend<float>> && has_grouped_swiglu<eigen_backend<float>>);
static_assert(tiling_backend<eigen_backend<bf16>> && has_grouped_swiglu<eigen_backend<bf16>> && has_grouped_mlp<eigen_backend<bf16>>);

}  // namespace esft

#if defined(ESFT_EIGEN_COMPILED)
namespace esft {
extern template class eigen_backend<float>;
extern template class eigen_backend<bf16>;
}  // namespace esft
#else
#include <esft/backends/eigen/definitions.hpp>
#endif
