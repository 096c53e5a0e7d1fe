// SPDX-License-Identifier: Apache-2.0
#include "expert_loop.hpp"
#include "share_out.hpp"

#include <esft/backends/eigen/large_pages.hpp>

#include <oneapi/dnnl/dnnl.hpp>
#include <omp.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <tuple>
#include <vector>

namespace esft::bench {
namespace {

using dnnl::memory;
using dims = memory::dims;
using tag = memory::format_tag;
using type = memory::data_type;

dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

/// One side of the weights: [K, N] as the forward product multiplies by it, or [N, K] for the input gradient.
/// Reordered once into the format that oneDNN wants; primitives kept by row count and thread count.
class reordered {
 public:
  reordered(const expert_stack& s, bool transposed)
      : s_(s), transposed_(transposed), element_(s.bf16 ? type::bf16 : type::f32), width_(transposed ? s.k : s.n), depth_(transposed ? s.n : s.k) {}

  /// Makes what a call with these rows needs, outside of any timing but the first.
  void prepare(long rows, int threads) {
    if (rows == 0 || primitives_.contains({rows, threads})) return;
    omp_set_num_threads(threads);
    if (weights_.empty()) reorder(describe(64, memory::desc({depth_, width_}, element_, tag::any)).weights_desc());
    const auto made = describe(rows, weights_.front().get_desc());
    primitives_.emplace(std::tuple(rows, threads), entry{dnnl::matmul(made), made.scratchpad_desc(), made.src_desc(), made.dst_desc()});
  }

  void run(long e, long rows, int threads, const void* x, void* y) {
    const entry& p = primitives_.at({rows, threads});
    thread_local dnnl::stream stream(engine());
    thread_local std::vector<char> scratch;
    if (scratch.size() < p.scratchpad.get_size() + 64) scratch.resize(p.scratchpad.get_size() + 64);
    void* const aligned = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64);
    p.primitive.execute(stream, {{DNNL_ARG_SRC, memory(p.src, engine(), const_cast<void*>(x))},
                                 {DNNL_ARG_WEIGHTS, weights_[static_cast<std::size_t>(e)]},
                                 {DNNL_ARG_DST, memory(p.dst, engine(), y)},
                                 {DNNL_ARG_SCRATCHPAD, memory(p.scratchpad, engine(), aligned)}});
    stream.wait();
  }

 private:
  struct entry {
    dnnl::matmul primitive;
    memory::desc scratchpad, src, dst;
  };
  [[nodiscard]] dnnl::matmul::primitive_desc describe(long rows, const memory::desc& weights) const {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return {dnnl::matmul::desc(memory::desc({rows, depth_}, element_, tag::ab), weights, memory::desc({rows, width_}, element_, tag::ab)),
            attributes, engine()};
  }
  void reorder(const memory::desc& wanted) {
    dnnl::stream stream(engine());
    const std::size_t bytes = static_cast<std::size_t>(s_.n * s_.k) * (s_.bf16 ? 2 : 4);
    for (long e = 0; e < s_.experts; ++e) {
      auto* const rows = const_cast<char*>(static_cast<const char*>(s_.weights)) + static_cast<std::size_t>(e) * bytes;
      memory from(memory::desc({depth_, width_}, element_, transposed_ ? tag::ab : tag::ba), engine(), rows);
      memory to(wanted, engine(), large_block(wanted.get_size()));
      dnnl::reorder(from, to).execute(stream, from, to);
      stream.wait();
      weights_.push_back(to);
    }
  }

  /// Memory in large pages, as the backend's own weights have.
  void* large_block(std::size_t bytes) {
    constexpr std::size_t page = std::size_t{1} << 21;
    blocks_.emplace_back(std::aligned_alloc(page, (bytes + page - 1) / page * page), &std::free);
    if (!blocks_.back()) throw std::bad_alloc();
    detail::eigen::ask_for_large_pages(blocks_.back().get(), bytes);
    return blocks_.back().get();
  }

  expert_stack s_;
  bool transposed_;
  type element_;
  long width_, depth_;  // columns of the result, terms of each sum
  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
  std::vector<memory> weights_;
  std::map<std::tuple<long, int>, entry> primitives_;
};

class onednn_products final : public expert_loop {
 public:
  explicit onednn_products(const expert_stack& s) : s_(s), forward_(s, false), backward_(s, true) {}

  bool use(int threads, bool split) override {
    share_ = split ? threads : 1;
    inside_ = split ? 1 : threads;
    return true;
  }
  void forward(const void* x, const std::int32_t* offsets, void* y) override { loop(forward_, x, s_.k, offsets, y, s_.n); }
  void input_gradient(const void* dy, const std::int32_t* offsets, void* dx) override { loop(backward_, dy, s_.n, offsets, dx, s_.k); }

  void weight_gradient(const void* dy, const void* x, const std::int32_t* offsets, std::span<const std::int32_t> selected,
                       float* dw) override {
    const type element = s_.bf16 ? type::bf16 : type::f32;
    share_out(share_, static_cast<long>(selected.size()), [&](long i) {
      const std::int32_t e = selected[static_cast<std::size_t>(i)];
      const long rows = offsets[e + 1] - offsets[e];
      if (rows == 0) return;
      omp_set_num_threads(inside_);
      const memory::desc left({s_.n, rows}, element, tag::ba);
      const memory::desc right({rows, s_.k}, element, tag::ab);
      const memory::desc sum({s_.n, s_.k}, type::f32, tag::ab);
      dnnl::post_ops add;
      add.append_sum(1);
      dnnl::primitive_attr attributes;
      attributes.set_post_ops(add);
      // A primitive of the same description comes from oneDNN's own cache.
      const dnnl::matmul product(dnnl::matmul::primitive_desc(dnnl::matmul::desc(left, right, sum), attributes, engine()));
      dnnl::stream stream(engine());
      product.execute(stream, {{DNNL_ARG_SRC, memory(left, engine(), row(dy, offsets[e], s_.n))},
                               {DNNL_ARG_WEIGHTS, memory(right, engine(), row(x, offsets[e], s_.k))},
                               {DNNL_ARG_DST, memory(sum, engine(), dw + i * s_.n * s_.k)}});
      stream.wait();
    });
  }

 private:
  [[nodiscard]] void* row(const void* rows, long first, long columns) const {
    return const_cast<char*>(static_cast<const char*>(rows)) + first * columns * (s_.bf16 ? 2 : 4);
  }
  void loop(reordered& weights, const void* x, long x_columns, const std::int32_t* offsets, void* y, long y_columns) {
    for (long e = 0; e < s_.experts; ++e) weights.prepare(offsets[e + 1] - offsets[e], inside_);
    share_out(share_, s_.experts, [&](long e) {
      const long rows = offsets[e + 1] - offsets[e];
      if (rows == 0) return;
      omp_set_num_threads(inside_);
      weights.run(e, rows, inside_, row(x, offsets[e], x_columns), row(y, offsets[e], y_columns));
    });
  }

  expert_stack s_;
  reordered forward_, backward_;
  int share_ = 1, inside_ = 1;
};

}  // namespace

std::unique_ptr<expert_loop> onednn_loop(const expert_stack& stack) { return std::make_unique<onednn_products>(stack); }

}  // namespace esft::bench
