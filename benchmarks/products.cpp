// SPDX-License-Identifier: Apache-2.0
// Grouped products: ours, and loops over the experts with other libraries, on the same rows.
#include "ceilings.hpp"
#include "product_case.hpp"

#include <algorithm>
#include <exception>
#include <set>
#include <utility>

namespace esft::bench {
namespace {

/// Whether this case is run for the first time in this process; then its result is checked.
bool first_time(const std::string& name) {
  static std::set<std::string> seen;
  return seen.insert(name).second;
}

/// Times one product. The first call of a case is checked and not timed; `dw` adds to zero then.
template <class T, class Call>
void run(benchmark::State& state, const bench_case& c, product op, const std::string& name, product_operands<T>& o, const T* weights,
         matrix_layout layout, matrix_layout dw_layout, Call call) {
  if (first_time(name)) {
    call();
    const std::string fault = check_product(op, o, weights, layout, o.dw.data(), dw_layout);
    if (!fault.empty()) {
      state.SkipWithError(fault.c_str());
      return;
    }
  }
  const auto ids = routed_ids(*c.shape, c.tokens, c.routing);
  if (op == product::dw_selected) {
    const auto used = std::count_if(o.selected.begin(), o.selected.end(), [&](std::int32_t e) {
      return o.offsets[static_cast<std::size_t>(e) + 1] > o.offsets[static_cast<std::size_t>(e)];
    });
    count_product(state, c, op, rows_of(ids, o.selected), used);  // gradients of experts without rows are not touched
  } else {
    count_product(state, c, op, o.rows, experts_in_use(*c.shape, ids));
  }
  const ceiling_watch watch(state, arithmetic_of(c.type), c.threads);
  for (auto _ : state) {
    call();
    benchmark::ClobberMemory();
  }
}

template <class T>
void ours(benchmark::State& state, const bench_case& c, product op, const std::string& name) {
  eigen_backend<T> b(c.threads);
  auto& layer = layer_weights<T>(*c.shape);
  product_operands<T> o(c, op);
  const host_view<const std::int32_t, 1> offsets(o.offsets.data(), {static_cast<index>(o.offsets.size())});
  const auto with = [&](auto& weight) {
    const matrix_layout layout = weight.layout();
    state.SetLabel(std::string(b.isa()) + ", tile " + std::to_string(layout.tile_rows) + "x" + std::to_string(layout.tile_columns));
    const auto x = std::as_const(o.x).view();
    const auto dy = std::as_const(o.dy).view();
    run(state, c, op, name, o, weight.value.data(), layout, layout, [&] {
      if (op == product::dx) {
        b.grouped_linear_dx(dy, weight.matrix(), offsets, o.x.view());
      } else if (op == product::dw_selected) {
        b.grouped_linear_dw(dy, x, offsets, o.selected, matrix_view<float, 3, host_space>(o.dw.view(), layout));
      } else {
        b.grouped_linear(x, weight.matrix(), offsets, o.dy.view());
      }
    });
  };
  if (matrix_of(op) == matrix::gate_up) {
    with(layer.gate_up);
  } else {
    with(layer.down);
  }
}

template <class T>
void theirs(benchmark::State& state, const bench_case& c, product op, const std::string& name, baseline library, bool split) {
  expert_loop* const loop = baseline_weights(*c.shape, library, c.type, matrix_of(op));
  if (loop == nullptr || !loop->use(c.threads, split)) {
    state.SkipWithError("this library has no such product");
    return;
  }
  product_operands<T> o(c, op);
  const T* const weights = static_cast<const T*>(row_major_weights(*c.shape, c.type, matrix_of(op)));
  run(state, c, op, name, o, weights, {}, {}, [&] {
    if (op == product::dx) {
      loop->input_gradient(o.dy.data(), o.offsets.data(), o.x.data());
    } else if (op == product::dw_selected) {
      loop->weight_gradient(o.dy.data(), o.x.data(), o.offsets.data(), o.selected, o.dw.data());
    } else {
      loop->forward(o.x.data(), o.offsets.data(), o.dy.data());
    }
  });
}

template <class Body>
void add(const bench_case& c, product op, const std::string& backend, Body body) {
  const std::string name = c.name(product_names[static_cast<int>(op)], backend);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { body(state, name); })->UseRealTime()->Unit(benchmark::kMillisecond);
}

void add_ours(const bench_case& c, product op) {
  add(c, op, "esft", [=](benchmark::State& state, const std::string& name) {
    c.type == element::bf16 ? ours<bf16>(state, c, op, name) : ours<float>(state, c, op, name);
  });
}

/// `<library>_loop`: the library is given all threads; `<library>_split`: the experts are shared out among threads.
void add_theirs(const bench_case& c, product op) {
  const auto with = [&](const char* backend, baseline library, bool split) {
    add(c, op, backend, [=](benchmark::State& state, const std::string& name) {
      try {
        c.type == element::bf16 ? theirs<bf16>(state, c, op, name, library, split) : theirs<float>(state, c, op, name, library, split);
      } catch (const std::exception& fault) {  // oneDNN says so when it has no such product for this CPU
        state.SkipWithError(fault.what());
      }
    });
  };
  if (c.type == element::float32) with("eigen_loop", baseline::eigen, true);
#if defined(ESFT_BENCH_OPENBLAS)
  if (c.type == element::float32) with("openblas_loop", baseline::openblas, false);
#endif
#if defined(ESFT_BENCH_ONEDNN)
  with("onednn_loop", baseline::onednn, false);
  if (c.threads > 1) with("onednn_split", baseline::onednn, true);
#endif
}

const bool registered = [] {
  for (bench_case c : all_cases()) {
    const bool compared = c.routing == "uniform" || (c.shape->published && c.routing == "zipf");
    const auto add_op = [&](product op, const std::string& selection) {
      c.selection = selection;
      add_ours(c, op);
      if (compared && selection != "all") add_theirs(c, op);
    };
    for (const product op : {product::gate_up, product::down, product::dx}) add_op(op, "none");
    for (const char* selection : {"all", "p8"}) add_op(product::dw_selected, selection);
    if (is_published(c.routing)) add_op(product::dw_selected, c.routing);
    if (c.shape->published && c.routing == "uniform" && c.tokens == 1024) {  // cost against selected rows
      for (const char* selection : {"first1", "first2", "first4", "first8", "first16", "first32", "first64"}) {
        c.selection = selection;
        add_ours(c, product::dw_selected);
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace esft::bench
