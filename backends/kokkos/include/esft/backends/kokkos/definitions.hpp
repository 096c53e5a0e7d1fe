// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The members of `kokkos_backend` that launch kernels. Include it to compile them for an execution space of your choice.

#include <esft/backends/kokkos.hpp>
#include <esft/backends/kokkos/attention.hpp>
#include <esft/backends/kokkos/dense.hpp>
#include <esft/backends/kokkos/routing.hpp>
#include <esft/backends/kokkos/rows.hpp>
#include <esft/core/error.hpp>

#include <algorithm>
#include <new>
#include <string>

namespace esft {

template <class Execution, class T>
Execution kokkos_backend<Execution, T>::default_instance() {
  if (!Kokkos::is_initialized()) {
    throw usage_error(
        "kokkos_backend: Kokkos is not initialised: call Kokkos::initialize() in main, or keep a Kokkos::ScopeGuard there, before the "
        "first "
        "backend is made");
  }
  return Execution();
}
template <class Execution, class T>
kokkos_backend<Execution, T>::kokkos_backend(const Execution& instance) {
  if (!Kokkos::is_initialized()) static_cast<void>(default_instance());
  context_ = std::make_unique<detail::kokkos::context<Execution>>(instance);
}
template <class Execution, class T>
std::string kokkos_backend<Execution, T>::description() const {
  return std::string(Execution::name()) + ", Kokkos " + std::to_string(KOKKOS_VERSION / 10000) + "." +
         std::to_string(KOKKOS_VERSION / 100 % 100) + "." + std::to_string(KOKKOS_VERSION % 100) + ", concurrency " +
         std::to_string(context_->execution.concurrency());
}

template <class Execution, class T>
void* kokkos_backend<Execution, T>::allocate(std::size_t bytes) {
  const std::size_t size = std::max<std::size_t>(bytes, 64);
  if constexpr (detail::kokkos::plain_memory<Execution>) return ::operator new(size, std::align_val_t(64));
  return Kokkos::kokkos_malloc<typename Execution::memory_space>("esft tensor", size);
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::release(void*, void* data) {
  if constexpr (detail::kokkos::plain_memory<Execution>) {
    ::operator delete(data, std::align_val_t(64));
  } else {
    Kokkos::fence();  // what is queued may still use it
    Kokkos::kokkos_free<typename Execution::memory_space>(data);
  }
}
namespace detail::kokkos {
/// Some neighbouring iterations of a function object behind a pointer: on the host only.
struct call_of_range {
  void (*body)(const void* context, index begin, index end);
  const void* context;
  index count;
  index ranges;
  void operator()(index r) const { body(context, count * r / ranges, count * (r + 1) / ranges); }
};
}  // namespace detail::kokkos

template <class Execution, class T>
void kokkos_backend<Execution, T>::for_ranges(index count, range_body body, const void* context) {
  if constexpr (detail::kokkos::on_cores<Execution>) {
    // Few ranges a thread: iterations may differ in cost, and none of it may take long to share out.
    const index ranges = std::min<index>(count, 8 * static_cast<index>(context_->execution.concurrency()));
    context_->each("esft for each", ranges, detail::kokkos::call_of_range{body, context, count, ranges});
  } else {
    body(context, 0, count);  // never called: for_each makes a kernel of each function object there
  }
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::copy_bytes(void* to, const void* from, std::size_t bytes) {
  using context = detail::kokkos::context<Execution>;
  if (bytes == 0) return;
  Kokkos::deep_copy(context_->execution, typename context::template borrowed<char>(static_cast<char*>(to), bytes),
                    typename context::template borrowed<const char>(static_cast<const char*>(from), bytes));
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::upload(void* to, const void* from, std::size_t bytes) {
  context_->upload(static_cast<char*>(to), static_cast<const char*>(from), bytes);
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::download(void* to, const void* from, std::size_t bytes) {
  context_->download(static_cast<char*>(to), static_cast<const char*>(from), bytes);
}

// ---- matrix products

namespace detail::kokkos {

/// C (+)= A B^T of dense matrices.
template <class Execution, class UA, along AlongA, class UB, along AlongB, class Out>
void multiply_rows(context<Execution>& shared, const char* label, operand<UA, AlongA> a, operand<UB, AlongB> b, Out* out, index rows,
                   index columns, index depth, bool accumulate) {
  if constexpr (by_kokkos_kernels<UA, UB, Out>) {  // with no terms to add, some versions leave the result as it was
    if (depth > 0) return multiply_by_kokkos_kernels(shared, a, b, out, rows, columns, depth, accumulate);
  }
  using S = tile_shape<Execution, accumulate_t<Out>>;
  const index each = rows_of_a_tile(rows, S::rows, S::block_rows);
  const product<UA, AlongA, UB, AlongB, Out> p{a,          b,       out,     columns, columns, depth,   0,      0,
                                               accumulate, nullptr, nullptr, rows,    each,    nullptr, nullptr};
  launch_product(shared, label, p, rows == 0 ? 0 : divide_up(rows, each));
}
template <class Execution, class T, along AlongB>
void multiply_groups(context<Execution>& shared, const char* label, const T* a, operand<T, AlongB> b, const std::int32_t* offsets,
                     index groups, T* out, index rows, index columns, index depth) {
  using S = tile_shape<Execution, accumulate_t<T>>;
  if (columns == 0) return;
  const row_tile* tiles = nullptr;
  const std::int32_t* count = nullptr;
  const index most = make_tiles(shared, offsets, groups, rows, S::rows, S::block_rows, tiles, count);
  const product<T, along::depth, T, AlongB, T> p{{a, depth}, b,     out,   columns, columns, depth,   columns * depth, 0,
                                                 false,      tiles, count, rows,    0,       nullptr, nullptr};
  launch_product(shared, label, p, most);
}

}  // namespace detail::kokkos

template <class Execution, class T>
void kokkos_backend<Execution, T>::linear(view<const T, 2> x, view<const T, 2> w, view<T, 2> y, write_mode mode) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(x.extent(1) == w.extent(1) && y.extent(0) == x.extent(0) && y.extent(1) == w.extent(0), "x [M,K], w [N,K], y [M,N]");
  k::multiply_rows(*context_, "esft linear", k::operand<T, k::along::depth>{x.data(), x.extent(1)},
                   k::operand<T, k::along::depth>{w.data(), w.extent(1)}, y.data(), y.extent(0), y.extent(1), x.extent(1),
                   mode == write_mode::accumulate);
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::linear_dx(view<const T, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(dy.extent(1) == w.extent(0) && dx.extent(0) == dy.extent(0) && dx.extent(1) == w.extent(1), "dy [M,N], w [N,K], dx [M,K]");
  k::multiply_rows(*context_, "esft linear dx", k::operand<T, k::along::depth>{dy.data(), dy.extent(1)},
                   k::operand<T, k::along::outer>{w.data(), w.extent(1)}, dx.data(), dx.extent(0), dx.extent(1), dy.extent(1),
                   mode == write_mode::accumulate);
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::linear_dw(view<const T, 2> dy, view<const T, 2> x, view<accum_type, 2> dw) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(dy.extent(0) == x.extent(0) && dw.extent(0) == dy.extent(1) && dw.extent(1) == x.extent(1), "dy [M,N], x [M,K], dw [N,K]");
  k::multiply_rows(*context_, "esft linear dw", k::operand<T, k::along::outer>{dy.data(), dy.extent(1)},
                   k::operand<T, k::along::outer>{x.data(), x.extent(1)}, dw.data(), dw.extent(0), dw.extent(1), dy.extent(0), true);
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::logits(view<const T, 2> x, view<const T, 2> w, view<accum_type, 2> y) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(x.extent(1) == w.extent(1) && y.extent(0) == x.extent(0) && y.extent(1) == w.extent(0), "x [M,K], w [N,K], y [M,N]");
  k::multiply_rows(*context_, "esft logits", k::operand<T, k::along::depth>{x.data(), x.extent(1)},
                   k::operand<T, k::along::depth>{w.data(), w.extent(1)}, y.data(), y.extent(0), y.extent(1), x.extent(1), false);
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::logits_dx(view<const accum_type, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(dy.extent(1) == w.extent(0) && dx.extent(0) == dy.extent(0) && dx.extent(1) == w.extent(1), "dy [M,N], w [N,K], dx [M,K]");
  k::multiply_rows(*context_, "esft logits dx", k::operand<accum_type, k::along::depth>{dy.data(), dy.extent(1)},
                   k::operand<T, k::along::outer>{w.data(), w.extent(1)}, dx.data(), dx.extent(0), dx.extent(1), dy.extent(1),
                   mode == write_mode::accumulate);
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::logits_dw(view<const accum_type, 2> dy, view<const T, 2> x, view<accum_type, 2> dw) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(dy.extent(0) == x.extent(0) && dw.extent(0) == dy.extent(1) && dw.extent(1) == x.extent(1), "dy [M,N], x [M,K], dw [N,K]");
  k::multiply_rows(*context_, "esft logits dw", k::operand<accum_type, k::along::outer>{dy.data(), dy.extent(1)},
                   k::operand<T, k::along::outer>{x.data(), x.extent(1)}, dw.data(), dw.extent(0), dw.extent(1), dy.extent(0), true);
}

template <class Execution, class T>
void kokkos_backend<Execution, T>::grouped_linear(view<const T, 2> x, view<const T, 3> w, ids offsets, view<T, 2> y) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(x.extent(1) == w.extent(2) && y.extent(0) == x.extent(0) && y.extent(1) == w.extent(1), "x [R,K], w [E,N,K], y [R,N]");
  ESFT_EXPECTS(offsets.size() == w.extent(0) + 1, "offsets [E+1]");
  k::multiply_groups(*context_, "esft grouped linear", x.data(), k::operand<T, k::along::depth>{w.data(), w.extent(2)}, offsets.data(),
                     w.extent(0), y.data(), x.extent(0), w.extent(1), w.extent(2));
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::grouped_linear_dx(view<const T, 2> dy, view<const T, 3> w, ids offsets, view<T, 2> dx) {
  namespace k = detail::kokkos;
  ESFT_EXPECTS(dy.extent(1) == w.extent(1) && dx.extent(0) == dy.extent(0) && dx.extent(1) == w.extent(2), "dy [R,N], w [E,N,K], dx [R,K]");
  ESFT_EXPECTS(offsets.size() == w.extent(0) + 1, "offsets [E+1]");
  k::multiply_groups(*context_, "esft grouped linear dx", dy.data(), k::operand<T, k::along::outer>{w.data(), w.extent(2)}, offsets.data(),
                     w.extent(0), dx.data(), dy.extent(0), w.extent(2), w.extent(1));
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::grouped_linear_dw(view<const T, 2> dy, view<const T, 2> x, ids offsets,
                                                     std::span<const std::int32_t> selected, view<accum_type, 3> dw) {
  namespace k = detail::kokkos;
  using S = k::tile_shape<Execution, accum_type>;
  ESFT_EXPECTS(static_cast<index>(selected.size()) == dw.extent(0), "one gradient slice per selected expert");
  ESFT_EXPECTS(dy.extent(0) == x.extent(0) && dw.extent(1) == dy.extent(1) && dw.extent(2) == x.extent(1),
               "dy [R,N], x [R,K], dw [S,N,K]");
  for (const std::int32_t e : selected) ESFT_EXPECTS(e >= 0 && e + 1 < offsets.size(), "selected experts lie in [0, E)");
  const index rows = dw.extent(1);
  const index columns = dw.extent(2);
  if (dw.size() == 0) return;
  const index each = k::rows_of_a_tile(rows, S::rows, S::block_rows);
  const k::product<T, k::along::outer, T, k::along::outer, accum_type> p{{dy.data(), rows},
                                                                         {x.data(), columns},
                                                                         dw.data(),
                                                                         columns,
                                                                         columns,
                                                                         dy.extent(0),
                                                                         0,
                                                                         rows * columns,
                                                                         true,
                                                                         nullptr,
                                                                         nullptr,
                                                                         rows,
                                                                         each,
                                                                         offsets.data(),
                                                                         context_->list_there(selected)};
  k::launch_product(*context_, "esft grouped linear dw", p, dw.extent(0) * k::divide_up(rows, each));
}

// ---- routing

template <class Execution, class T>
void kokkos_backend<Execution, T>::dispatch(slots expert_ids, view<std::int32_t, 1> offsets, view<std::int32_t, 1> row_slot,
                                            view<std::int32_t, 2> slot_row) {
  namespace k = detail::kokkos;
  using steps = k::dispatch_slots<Execution>;
  const index count = expert_ids.size();
  const index experts = offsets.size() - 1;
  ESFT_EXPECTS(experts >= 0 && row_slot.size() == count && slot_row.size() == count, "offsets [E+1], row_slot [T K], slot_row [T,K]");
  const index pieces = k::divide_up(count, steps::piece);
  const steps d{expert_ids.data(),
                offsets.data(),
                row_slot.data(),
                slot_row.data(),
                context_->template scratch<std::int32_t>(k::purpose::counts, pieces * experts),
                count,
                experts,
                pieces,
                context_->bad.data(),
                static_cast<int>(k::mark::expert)};
  context_->each("esft dispatch count", pieces, typename steps::count{d});
  context_->each("esft dispatch pieces", experts, typename steps::add_pieces{d});
  context_->each("esft dispatch experts", 1, typename steps::add_experts{d});
  context_->each("esft dispatch assign", pieces, typename steps::assign{d});
  context_->each("esft dispatch rest", count, typename steps::clear_rest{d});
  context_->check_marks();
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::gather(view<const T, 2> x, ids row_slot, index active, view<T, 2> y) {
  ESFT_EXPECTS(x.extent(1) == y.extent(1) && row_slot.size() == y.extent(0) && (active > 0 || y.size() == 0),
               "x [T,D], row_slot [R], y [R,D], and a token has slots");
  context_->teams("esft gather", y.extent(0), detail::kokkos::gather_row<T>{x.data(), row_slot.data(), y.data(), active, y.extent(1)});
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::gather_sum(view<const T, 2> y, slots slot_row, view<T, 2> out, write_mode mode) {
  ESFT_EXPECTS(y.extent(1) == out.extent(1) && slot_row.extent(0) == out.extent(0), "y [R,D], slot_row [T,K], out [T,D]");
  context_->teams("esft gather sum", out.extent(0),
                  detail::kokkos::combine_token<Execution, T>{y.data(), slot_row.data(), nullptr, out.data(), slot_row.extent(1),
                                                              out.extent(1), mode == write_mode::accumulate});
}
template <class Execution, class T>
void kokkos_backend<Execution, T>::combine(view<const T, 2> y, slots slot_row, view<const accum_type, 2> weights, view<T, 2> out,
                                           write_mode mode) {
  ESFT_EXPECTS(y.extent(1) == out.extent(1) && slot_row.extent(0) == out.extent(0), "y [R,D], slot_row [T,K], out [T,D]");
  ESFT_EXPECTS(weights.shape() == slot_row.shape(), "weights [T,K] beside slot_row [T,K]");
  context_->teams("esft combine", out.extent(0),
                  detail::kokkos::combine_token<Execution, T>{y.data(), slot_row.data(), weights.data(), out.data(), slot_row.extent(1),
                                                              out.extent(1), mode == write_mode::accumulate});
}

}  // namespace esft

#include <esft/backends/kokkos/row_members.hpp>
#include <esft/backends/kokkos/sequence_members.hpp>
