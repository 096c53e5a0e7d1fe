// SPDX-License-Identifier: Apache-2.0
// LoRA on routed rows: forward and backward of a layer hold the same memory whether its rows meet one expert or all of them, and never as
// much as a change of the weights [E, 2I, D] would take.
#include "numeric.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/backends/eigen.hpp>
#include <esft/moe/layer.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <vector>

#include <malloc.h>

namespace {

/// Bytes that this program holds: all of it, and the tensors that the library asked a backend for.
struct bytes_held {
  std::atomic<std::int64_t> now = 0, most = 0;
  void take(std::size_t bytes) {
    const std::int64_t held = now += static_cast<std::int64_t>(bytes);
    std::int64_t seen = most;
    while (held > seen && !most.compare_exchange_weak(seen, held)) {
    }
  }
  void give(std::size_t bytes) { now -= static_cast<std::int64_t>(bytes); }
};
bytes_held of_everything;
bytes_held of_tensors;

void* counted(void* block) {
  if (block == nullptr) throw std::bad_alloc();
  of_everything.take(::malloc_usable_size(block));
  return block;
}
void* counted(std::size_t size, std::align_val_t alignment) {
  const auto unit = static_cast<std::size_t>(alignment);
  return counted(std::aligned_alloc(unit, (std::max<std::size_t>(size, 1) + unit - 1) / unit * unit));
}
void uncounted(void* block) noexcept {
  if (block != nullptr) of_everything.give(::malloc_usable_size(block));
  std::free(block);
}

}  // namespace

void* operator new(std::size_t size) { return counted(std::malloc(std::max<std::size_t>(size, 1))); }
void* operator new[](std::size_t size) { return counted(std::malloc(std::max<std::size_t>(size, 1))); }
void* operator new(std::size_t size, std::align_val_t alignment) { return counted(size, alignment); }
void* operator new[](std::size_t size, std::align_val_t alignment) { return counted(size, alignment); }
void operator delete(void* block) noexcept { uncounted(block); }
void operator delete[](void* block) noexcept { uncounted(block); }
void operator delete(void* block, std::size_t) noexcept { uncounted(block); }
void operator delete[](void* block, std::size_t) noexcept { uncounted(block); }
void operator delete(void* block, std::align_val_t) noexcept { uncounted(block); }
void operator delete[](void* block, std::align_val_t) noexcept { uncounted(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { uncounted(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { uncounted(block); }

namespace low_rank_memory_tests {

using esft::extents;
using esft::index;

/// A backend whose tensors are counted, and none of whose tensors comes out of a cache.
template <class Base>
class weighed : public Base {
 public:
  using Base::Base;
  template <class U, std::size_t R>
  [[nodiscard]] esft::host_tensor<U, R> make_tensor(extents<R> shape) {
    using tensor = esft::host_tensor<U, R>;
    struct held {
      tensor memory;
      std::size_t bytes;
    };
    const auto bytes = static_cast<std::size_t>(esft::element_count(shape)) * sizeof(U);
    auto* const owner = new held{esft::make_host_tensor<U, R>(shape), bytes};
    of_tensors.take(bytes);
    return {owner->memory.data(), shape,
            [](void* context, void*) {
              of_tensors.give(static_cast<held*>(context)->bytes);
              delete static_cast<held*>(context);
            },
            owner};
  }
};
static_assert(esft::moe_backend<weighed<esft::reference_backend<float>>>);
static_assert(esft::moe_backend<weighed<esft::eigen_backend<float>>>);

// Sixteen rows for each of all the experts: the CPU backend packs the rows of an expert by sixteens, and whole ones need no padding.
constexpr index tokens = 128, experts = 8, width = 192, expert_width = 192, rank = 4;

std::vector<float> numbers(index count, std::uint64_t seed, double deviation = 0.1) {
  const std::vector<double> values = esft_test::normal_numbers(static_cast<std::size_t>(count), seed, deviation);
  return {values.begin(), values.end()};
}

struct peak {
  std::int64_t tensors, everything;  ///< bytes over what was held before
  index touched;                     ///< experts with rows
};

/// One pass forward and backward whose tokens all go to the first `touched` experts, as many to each; every expert has factors.
template <class Base>
peak peak_of_a_pass(index touched) {
  using Backend = weighed<Base>;
  using T = esft::value_t<Backend>;
  auto backend = [] {
    if constexpr (std::is_constructible_v<Backend, int>) {
      return Backend(1);  // each further thread has buffers of its own
    } else {
      return Backend();
    }
  }();
  esft::moe_parameters<Backend> p;
  std::vector<float> router(static_cast<std::size_t>(experts * width));  // the logit of expert e is 40 times element e of a token
  for (index e = 0; e < experts; ++e) router[static_cast<std::size_t>(e * width + e)] = 40;
  const auto make_weight = [&](auto& w, const auto& shape, const std::vector<float>& values) {
    esft::allocate(backend, w, shape);  // in the order that the backend's kernels like best
    esft::copy_in(backend, std::span<const float>(values), w);
  };
  make_weight(p.router, extents<2>{experts, width}, router);
  make_weight(p.gate_up, extents<3>{experts, 2 * expert_width, width}, numbers(experts * 2 * expert_width * width, 1));
  make_weight(p.down, extents<3>{experts, width, expert_width}, numbers(experts * expert_width * width, 2));
  std::vector<std::int32_t> all;
  for (std::int32_t e = 0; e < experts; ++e) all.push_back(e);
  std::uint64_t stream = 2;
  const auto give_factors = [&](auto& w) {
    esft::make_low_rank(backend, w, {.rank = rank, .alpha = 2, .seed = 3}, all, ++stream);
    auto& pair = *w.low_rank;
    esft::copy_in(backend, std::span<const float>(numbers(pair.b.value.size(), stream)), pair.b);
    pair.a.train(backend);
    pair.b.train(backend);
  };
  give_factors(p.gate_up);
  give_factors(p.down);
  std::vector<float> tokens_in = numbers(tokens * width, 5);
  for (index t = 0; t < tokens; ++t) tokens_in[static_cast<std::size_t>(t * width + t % touched)] = 3;
  const auto x = esft_test::make<T>(backend, extents<2>{tokens, width}, tokens_in);
  const auto dy = esft_test::make<T>(backend, extents<2>{tokens, width}, numbers(tokens * width, 6));
  auto y = backend.template make_tensor<T>(x.shape());
  auto dx = backend.template make_tensor<T>(x.shape());
  backend.fill(y.view(), T{});
  auto dx_view = dx.view();
  const esft::softmax_topk_router choose(1, false, 1);
  esft::moe_saved<Backend> saved;

  const std::int64_t tensors = of_tensors.now;
  const std::int64_t everything = of_everything.now;
  of_tensors.most = tensors;
  of_everything.most = everything;
  esft::moe_forward(backend, choose, p, x.view(), y.view(), saved);
  static_cast<void>(esft::moe_backward(backend, choose, p, dy.view(), x.view(), saved, &dx_view));
  peak result{of_tensors.most - tensors, of_everything.most - everything, 0};

  const auto offsets = esft_test::to_host<std::int32_t>(backend, saved.plan.offsets);
  for (std::size_t e = 0; e < all.size(); ++e) {
    const bool used = offsets[e + 1] > offsets[e];
    result.touched += used ? 1 : 0;
    for (auto* pair : {p.gate_up.low_rank.get(), p.down.low_rank.get()}) {
      const index height = pair->b.part_shape()[0];
      std::vector<float> gradient(static_cast<std::size_t>(height * rank));
      esft::copy_out(backend, pair->b.gradient_rows(static_cast<index>(e), 0, height), std::span<float>(gradient));
      EXPECT_EQ(std::any_of(gradient.begin(), gradient.end(), [](float g) { return g != 0; }), used) << "factors of expert " << e;
    }
  }
  return result;
}

template <class Backend>
class low_rank_memory : public ::testing::Test {};
using host_backends = ::testing::Types<esft::reference_backend<float>, esft::eigen_backend<float>, esft::eigen_backend<esft::bf16>>;
TYPED_TEST_SUITE(low_rank_memory, host_backends);

TYPED_TEST(low_rank_memory, does_not_grow_with_the_experts_that_are_touched) {
  using T = esft::value_t<TypeParam>;
  // Of W + s B A, as the sums in which a backend would form it.
  constexpr auto change_of_gate_up = static_cast<std::int64_t>(sizeof(esft::accum_t<TypeParam>)) * experts * 2 * expert_width * width;
  constexpr std::int64_t small = 4096;  // lists over the experts, and what the allocator rounds up
  const peak one = peak_of_a_pass<TypeParam>(1);
  EXPECT_GT(one.tensors, static_cast<std::int64_t>(sizeof(T)) * tokens * 2 * expert_width);  // the counter counts
  EXPECT_GE(one.everything, one.tensors);
  for (const index touched : {1, 2, 4, 8}) {
    const peak some = peak_of_a_pass<TypeParam>(touched);
    EXPECT_EQ(some.touched, touched);
    EXPECT_EQ(some.tensors, one.tensors) << touched;
    // Not equal on the CPU backend: the buffers in which a thread packs the rows of one expert shrink with their number.
    EXPECT_LE(some.everything, one.everything + small) << touched;
    EXPECT_LT(some.everything, change_of_gate_up) << touched;
  }
}

}  // namespace low_rank_memory_tests
