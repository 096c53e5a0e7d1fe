// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The `backend` concepts: the small set of primitives that a compute backend offers. Two tiers: `moe_backend`, `transformer_backend`.

#include <esft/backend/matrix.hpp>
#include <esft/backend/tensor.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/routing_record.hpp>

#include <concepts>
#include <cstdint>
#include <span>
#include <string_view>

namespace esft {

/// Whether an operation replaces its output or adds to it.
enum class write_mode : bool { overwrite, accumulate };

/// Scalars of one AdamW update. @source I. Loshchilov, F. Hutter, arXiv 1711.05101, algorithm 2
struct adamw_step {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0;       ///< decoupled: w -= learning_rate * weight_decay * w
  std::int64_t step = 1;         ///< 1-based, for the bias corrections
  double gradient_scale = 1;     ///< factor applied to the gradient first (clipping, averaging)
  bool round_to_bf16 = false;    ///< the checkpoint stores bf16: keep the working weight on that grid, so trained = saved bit for bit
};

/// Element types and memory of a backend `B`.
template <class B> using value_t = typename B::value_type;                   ///< weights and activations
template <class B> using accum_t = accumulate_t<typename B::value_type>;     ///< logits, routing weights, gradients, optimizer state
template <class B, class T, std::size_t R> using view_t = tensor_view<T, R, typename B::memory_space>;
template <class B, class T, std::size_t R> using tensor_t = tensor<T, R, typename B::memory_space>;

namespace detail {
/// Stands for any body of `for_each` where the concept asks for it.
struct any_body {
  ESFT_HOST_DEVICE void operator()(index) const {}
};
/// Tensors of `T` in the backend's memory, and their way to the host and back.
template <class B, class T>
concept stores = requires(B& b, view_t<B, T, 1> to, view_t<B, const T, 1> from, std::span<const T> host, std::span<T> host_out) {
  { b.template make_tensor<T>(extents<2>{}) } -> std::same_as<tensor_t<B, T, 2>>;
  b.fill(to, T{});
  b.copy(from, to);
  b.copy_in(host, to);
  b.copy_out(from, host_out);
};
}  // namespace detail

/// What every backend has: types, tensors of values, sums and ids (`std::int32_t`), copies between host and its memory, and a loop.
/// - `B::name`: its name on the command line.
/// - `make_tensor<T>(extents)`: an uninitialised owner.
/// - `fill(view, x)`; `copy(from, to)` inside the backend's memory; `copy_in(host, view)`, `copy_out(view, host)` converting element types.
/// - `for_each(n, f)`: calls `f(i)` for i in [0, n), independent iterations in any order; `f` is an `ESFT_HOST_DEVICE` function object.
template <class B>
concept backend = requires(B& b, view_t<B, value_t<B>, 1> values, view_t<B, const value_t<B>, 1> const_values, std::span<const float> host,
                           std::span<float> host_out) {
  { B::name } -> std::convertible_to<std::string_view>;
  requires memory_space<typename B::memory_space>;
  requires detail::stores<B, value_t<B>>;
  requires detail::stores<B, accum_t<B>>;
  requires detail::stores<B, std::int32_t>;
  b.copy_in(host, values);
  b.copy_out(const_values, host_out);
  b.for_each(index{}, detail::any_body{});
};

/// A backend whose kernels read weights faster in an order of their own, `B::tile`. Its ops then take a `matrix_view` for every weight `w`
/// and weight gradient `dw` of the tables below, in that layout or row-major; row-major where the tiles do not fit.
/// `rearrange(matrix, from, to)` permutes one matrix in place.
template <class B>
concept tiling_backend = backend<B> && requires(B& b, view_t<B, value_t<B>, 2> values, view_t<B, accum_t<B>, 2> sums) {
  { B::tile } -> std::convertible_to<matrix_layout>;
  b.rearrange(values, matrix_layout{}, B::tile);
  b.rearrange(sums, matrix_layout{}, B::tile);
};

namespace detail {
template <class B, class T, std::size_t R>
struct matrix_of {
  using type = view_t<B, T, R>;
};
template <tiling_backend B, class T, std::size_t R>
struct matrix_of<B, T, R> {
  using type = matrix_view<T, R, typename B::memory_space>;
};
}  // namespace detail

/// What the ops of backend `B` take for weight matrices: a `matrix_view` where it tiles, a plain view elsewhere.
template <class B, class T, std::size_t R>
using matrix_t = typename detail::matrix_of<B, T, R>::type;

/// Layout of a weight matrix [rows, columns] in memory of backend `B`.
template <class B>
[[nodiscard]] constexpr matrix_layout layout_for(index rows, index columns) noexcept {
  if constexpr (tiling_backend<B>) {
    const matrix_layout tile = B::tile;
    if (tile.fits(rows, columns)) return tile;
  }
  return {};
}

/// Enough to put an MoE layer with frozen and trained experts into someone else's training loop.
/// Letters as in docs/notation.md; R = T x K routed rows, sorted by expert. Every op allows extents of 0.
///
/// | member | meaning |
/// |---|---|
/// | `linear(x[M,K], w[N,K], y[M,N], mode)` | y = x w^T |
/// | `linear_dx(dy[M,N], w[N,K], dx[M,K], mode)` | dx = dy w |
/// | `linear_dw(dy[M,N], x[M,K], dw[N,K])` | dw += dy^T x, in the accumulate type |
/// | `logits`, `logits_dx`, `logits_dw` | the same with y and dy in the accumulate type (router, head) |
/// | `dispatch(ids[T,K], offsets[E+1], row_slot[R], slot_row[T,K])` | stable counting sort: rows of expert e are [offsets[e], offsets[e+1]); row r serves slot row_slot[r] = t K + k, in slot order. An id may be `no_expert`: such a slot is empty, its slot_row and the row_slot of the rows [offsets[E], R) become `no_expert`, and every op leaves those rows and slots alone |
/// | `gather(x[T,D], row_slot[R], active, y[R,D])` | y[r] = x[row_slot[r] / active] |
/// | `gather_sum(y[R,D], slot_row[T,K], out[T,D], mode)` | out[t] = sum_k y[slot_row[t,k]], k ascending (backward of gather) |
/// | `combine(y[R,D], slot_row[T,K], weights[T,K], out[T,D], mode)` | out[t] = sum_k weights[t,k] y[slot_row[t,k]], k ascending |
/// | `grouped_linear(x[R,K], w[E,N,K], offsets[E+1], y[R,N])` | y[r] = x[r] w[e(r)]^T |
/// | `grouped_linear_dx(dy[R,N], w[E,N,K], offsets[E+1], dx[R,K])` | dx[r] = dy[r] w[e(r)] |
/// | `grouped_linear_dw(dy[R,N], x[R,K], offsets[E+1], selected[S], dw[S,N,K])` | dw[s] += sum over the rows of expert selected[s] of dy[r]^T x[r]; no row: += 0 exactly |
/// | `swiglu(gate_up[R,2I], h[R,I])` | h = silu(gate) * up, gate the first I columns |
/// | `swiglu_backward(gate_up[R,2I], dh[R,I], dgate_up[R,2I])` | |
/// | `weighted_swiglu_backward(gate_up[R,2I], dh[R,I], weights[T,K], row_slot[R], dgate_up[R,2I], weighted_h[R,I], dweights[T,K])` | h = swiglu(gate_up) recomputed; with w = weights[row_slot[r]]: dweights[row_slot[r]] = <dh, h>, dgate_up from w dh, weighted_h = w h |
/// | `add(x[N], y[N])` | y += x |
/// | `adamw(weight[N], master[N], m[N], v[N], gradient[N], step)` | compact AdamW; weight = round(master) |
/// | `sum_of_squares(gradient[N])` | double, fixed order; NaN or Inf if any element is |
template <class B>
concept moe_backend =
    backend<B> && requires(B& b, view_t<B, const value_t<B>, 2> x, view_t<B, value_t<B>, 2> y, view_t<B, const value_t<B>, 3> stacked,
                           view_t<B, const accum_t<B>, 2> sums, view_t<B, accum_t<B>, 2> sums_out, view_t<B, accum_t<B>, 3> stacked_sums,
                           view_t<B, const std::int32_t, 2> slots, view_t<B, std::int32_t, 2> slots_out,
                           view_t<B, const std::int32_t, 1> offsets, view_t<B, std::int32_t, 1> offsets_out,
                           std::span<const std::int32_t> selected, view_t<B, const value_t<B>, 1> flat, view_t<B, value_t<B>, 1> flat_out,
                           view_t<B, accum_t<B>, 1> state, view_t<B, const accum_t<B>, 1> gradient, write_mode mode, adamw_step step) {
      b.linear(x, x, y, mode);
      b.linear_dx(x, x, y, mode);
      b.linear_dw(x, x, sums_out);
      b.logits(x, x, sums_out);
      b.logits_dx(sums, x, y, mode);
      b.logits_dw(sums, x, sums_out);
      b.dispatch(slots, offsets_out, offsets_out, slots_out);
      b.gather(x, offsets, 1, y);
      b.gather_sum(x, slots, y, mode);
      b.combine(x, slots, sums, y, mode);
      b.grouped_linear(x, stacked, offsets, y);
      b.grouped_linear_dx(x, stacked, offsets, y);
      b.grouped_linear_dw(x, x, offsets, selected, stacked_sums);
      b.swiglu(x, y);
      b.swiglu_backward(x, x, y);
      b.weighted_swiglu_backward(x, x, sums, offsets, y, y, sums_out);
      b.add(flat, flat_out);
      b.adamw(flat_out, state, state, state, gradient, step);
      { b.sum_of_squares(gradient) } -> std::convertible_to<double>;
    };

/// One trained piece of the weights and its gradient. Optimizer state of a list of pieces lies back to back in the order of the list.
template <class B>
struct update_slice {
  view_t<B, value_t<B>, 1> value;
  view_t<B, accum_t<B>, 1> gradient;
  bool decays = true;
};

/// A backend that treats all trained pieces in one go, for `trained_list`: `make_update_list(slices)` once, and on its result
/// `clear_gradients(list)`, `sum_of_squares(list)` and `adamw(list, master[N], m[N], v[N], step)`, N elements of all pieces together;
/// the step's weight decay is that of the pieces that decay.
template <class B>
concept has_update_list =
    moe_backend<B> && requires(B& b, std::span<const update_slice<B>> slices, const typename B::update_list& list,
                               view_t<B, accum_t<B>, 1> state, adamw_step step) {
      { b.make_update_list(slices) } -> std::same_as<typename B::update_list>;
      b.clear_gradients(list);
      { b.sum_of_squares(list) } -> std::convertible_to<double>;
      b.adamw(list, state, state, state, step);
    };

/// Rows of `x` [T, D] that routing sends to experts, as an operand: for backends that have the ops below.
template <class B>
using gathered_t = gathered_rows<const value_t<B>, typename B::memory_space>;

/// Low-rank factors as an operand, for backends with `has_grouped_mlp`.
template <class B>
using factors_t = grouped_factors<value_t<B>, typename B::memory_space>;

/// A backend that reads routed rows while it packs them, without a gathered copy: `grouped_linear`, `grouped_linear_dx` and (both
/// operands) `grouped_linear_dw` take a `gathered_rows` where they take x or dy.
template <class B>
concept has_gathering = moe_backend<B> && requires(B& b, gathered_t<B> rows, view_t<B, const value_t<B>, 2> x,
                                                   view_t<B, value_t<B>, 2> y, view_t<B, const value_t<B>, 3> w,
                                                   view_t<B, accum_t<B>, 3> dw, view_t<B, const std::int32_t, 1> offsets,
                                                   std::span<const std::int32_t> selected) {
  b.grouped_linear(rows, w, offsets, y);
  b.grouped_linear_dx(rows, w, offsets, y);
  b.grouped_linear_dw(rows, x, offsets, selected, dw);
  b.grouped_linear_dw(x, rows, offsets, selected, dw);
};

/// A backend that applies SwiGLU while the product is still in registers, to the same bits as the two ops after one another:
/// `grouped_swiglu(x [R, K] or gathered rows, w [E, 2I, K], offsets, gate_up [R, 2I], h [R, I])`.
template <class B>
concept has_grouped_swiglu =
    has_gathering<B> && requires(B& b, gathered_t<B> rows, view_t<B, value_t<B>, 2> y, view_t<B, const value_t<B>, 3> w,
                                 view_t<B, const std::int32_t, 1> offsets) { b.grouped_swiglu(rows, w, offsets, y, y); };

/// A backend that takes an expert's two products and the SwiGLU between them together, so that what lies between them need not reach memory.
/// `grouped_mlp(x, gate_up_weight, down_weight, offsets, gate_up_factors, down_factors, gate_up, y)`:
/// gate_up[r] = x[r] gate_up_weight[e]^T, y[r] = (silu(gate) * up) down_weight[e]^T, with what low-rank factors add to either unless null;
/// `grouped_mlp_backward(dy, gate_up_weight, down_weight, offsets, selected, gate_up_factors, down_factors, gate_up, weights, row_slot,
/// dgate_up, weighted_h, dx, dweights)`: what `grouped_linear_dx`, `weighted_swiglu_backward` and `grouped_linear_dx` leave; of dgate_up and
/// weighted_h only the rows of selected experts, the others are unspecified.
/// Both return whether they did it; if not, nothing is changed and the ops are to be taken one by one. Without factors the same bits.
/// @shape x, dy gathered rows [R, D]; gate_up_weight [E, 2I, D], down_weight [E, D, I], gate_up, dgate_up [R, 2I], weighted_h [R, I],
/// y, dx [R, D]
template <class B>
concept has_grouped_mlp =
    has_gathering<B> && requires(B& b, gathered_t<B> rows, view_t<B, const value_t<B>, 2> x, view_t<B, value_t<B>, 2> y,
                                 view_t<B, const value_t<B>, 3> w, view_t<B, const std::int32_t, 1> ids,
                                 std::span<const std::int32_t> selected, const factors_t<B>* factors,
                                 view_t<B, const accum_t<B>, 2> weights, view_t<B, accum_t<B>, 2> dweights) {
      { b.grouped_mlp(rows, w, w, ids, factors, factors, y, y) } -> std::same_as<bool>;
      { b.grouped_mlp_backward(rows, w, w, ids, selected, factors, factors, x, weights, ids, y, y, y, dweights) } -> std::same_as<bool>;
    };

/// A backend that multiplies the rows of some experts only, and can add to what is there: what low-rank factors of selected experts need.
/// `grouped_linear(x[R,K], w[S,N,K], offsets[E+1], selected[S], y[R,N], mode)`: y[r] (+)= x[r] w[s]^T for the rows of expert selected[s];
/// `grouped_linear_dx(dy[R,N], w[S,N,K], offsets[E+1], selected[S], dx[R,K], mode)` likewise. Other rows are not touched. x and dy may be
/// gathered rows.
template <class B>
concept has_selected_products =
    has_gathering<B> && requires(B& b, gathered_t<B> rows, view_t<B, const value_t<B>, 2> x, view_t<B, value_t<B>, 2> y,
                                 view_t<B, const value_t<B>, 3> w, view_t<B, const std::int32_t, 1> offsets,
                                 std::span<const std::int32_t> selected, write_mode mode) {
      b.grouped_linear(x, w, offsets, selected, y, mode);
      b.grouped_linear(rows, w, offsets, selected, y, mode);
      b.grouped_linear_dx(x, w, offsets, selected, y, mode);
      b.grouped_linear_dx(rows, w, offsets, selected, y, mode);
    };

/// A backend that routes in one pass: softmax over E experts and the K largest of them, for `softmax_topk_router`.
/// `softmax_topk(logits [T, E], normalise, scale, ids [T, K], weights [T, K], probabilities [T, E])`.
template <class B>
concept has_softmax_topk = backend<B> && requires(B& b, view_t<B, const accum_t<B>, 2> logits, view_t<B, std::int32_t, 2> ids,
                                                  view_t<B, accum_t<B>, 2> sums) {
  b.softmax_topk(logits, true, accum_t<B>{}, ids, sums, sums);
};

/// Adds what a decoder needs around its MoE layers.
///
/// | member | meaning |
/// |---|---|
/// | `embedding(ids[T], table[V,D], y[T,D])`, `embedding_dw(ids[T], dy[T,D], dtable[V,D])` | row lookup; += in token order |
/// | `rms_norm(x[N,D], weight[D], epsilon, y[N,D], rstd[N])` | y = x rstd weight, rstd = (mean x^2 + epsilon)^-1/2 |
/// | `rms_norm_dx(dy[N,D], x[N,D], weight[D], rstd[N], dx[N,D], mode)`, `rms_norm_dw(dy, x, rstd, dweight[D])` | |
/// | `rope(x[T,H,F], positions[T], theta, direction)` | in place, rotate-half pairs (i, i + F/2), angle = direction * position * theta^(-2i/F); direction -1 is the backward |
/// | `attention(q[T,H,F], k[S,G,F], v[S,G,F], key_begin[T], key_end[T], scale, o[T,H,F], lse[T,H])` | softmax over keys [key_begin, key_end) of the shared head h / (H/G); memory linear in T and S |
/// | `attention_backward(q, k, v, o, lse, d_o, key_begin, key_end, scale, dq, dk, dv)` | recomputes the probabilities from lse |
/// | `cross_entropy(logits[T,V], labels[T], scale)` | returns the sum of -log softmax over labelled rows; logits become scale * (softmax - onehot), 0 for ignored rows |
template <class B>
concept transformer_backend =
    moe_backend<B> &&
    requires(B& b, view_t<B, const std::int32_t, 1> ids, view_t<B, const value_t<B>, 2> x, view_t<B, value_t<B>, 2> y,
             view_t<B, const value_t<B>, 1> weight, view_t<B, accum_t<B>, 1> rstd_out, view_t<B, const accum_t<B>, 1> rstd,
             view_t<B, accum_t<B>, 2> sums_out, view_t<B, const accum_t<B>, 2> sums, view_t<B, value_t<B>, 3> heads_out,
             view_t<B, const value_t<B>, 3> heads, write_mode mode) {
      b.embedding(ids, x, y);
      b.embedding_dw(ids, x, sums_out);
      b.rms_norm(x, weight, 1e-6, y, rstd_out);
      b.rms_norm_dx(x, x, weight, rstd, y, mode);
      b.rms_norm_dw(x, x, rstd, rstd_out);
      b.rope(heads_out, ids, 1e4, 1);
      b.attention(heads, heads, heads, ids, ids, 1.0, heads_out, sums_out);
      b.attention_backward(heads, heads, heads, heads, sums, heads, ids, ids, 1.0, heads_out, heads_out, heads_out);
      { b.cross_entropy(sums_out, ids, 1.0) } -> std::convertible_to<double>;
    };

}  // namespace esft
