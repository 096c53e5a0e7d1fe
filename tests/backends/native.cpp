// SPDX-License-Identifier: Apache-2.0
// Which kernels run: a silent fall back to slower ones fails here.
#include "ops.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/micro_kernel.hpp>
#include <esft/backends/eigen/panel_kernel.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <gtest/gtest.h>

namespace esft::test {
namespace native_tests {

namespace kernels = detail::eigen;

/// Whether the operating system lists a feature of this CPU; independent of how the backend asks.
bool cpu_lists(const std::string& feature) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (word == feature) return true;
    }
    return false;
  }
  return false;
}

/// Whether the operating system lets this process use the tile registers; asked for here, not by the backend.
bool system_permits_tiles() {
#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
  return ::syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}

TEST(native, the_fastest_kernels_of_this_cpu_run) {
  const bool wide = cpu_lists("avx512f") && cpu_lists("avx512bw") && cpu_lists("avx512dq") && cpu_lists("avx512vl");
  const std::string_view expected = wide ? "avx512" : cpu_lists("avx2") && cpu_lists("fma") ? "avx2" : "generic";
  if (expected == "generic") GTEST_SKIP() << "this CPU has neither AVX-512 nor AVX2";
  eigen_backend<float> backend(1);
  EXPECT_EQ(backend.isa(), expected);
  const bool tiles = cpu_lists("amx_tile") && cpu_lists("amx_bf16") && system_permits_tiles();
  const std::string_view for_bf16 = !wide || !cpu_lists("avx512_bf16") ? expected : tiles ? "amx" : "avx512_bf16";
  EXPECT_EQ(eigen_backend<bf16>(1).isa(), for_bf16);
}

TEST(native, every_feature_is_found_as_the_system_lists_it) {
  if (!cpu_lists("sse2")) GTEST_SKIP() << "the system lists no features of this CPU";
  const kernels::cpu_features found = kernels::detect_features();
  for (const auto& [name, there] : kernels::all_features) EXPECT_EQ(found.*there, cpu_lists(std::string(name))) << name;
}

/// A CPU with the features up to this one, in the order of `all_features`.
kernels::cpu_features with_features(std::size_t count) {
  kernels::cpu_features has;
  for (std::size_t i = 0; i < count; ++i) has.*kernels::all_features[i].there = true;
  return has;
}

TEST(native, the_choice_follows_the_features_and_the_permission) {
  using enum kernels::isa;
  constexpr std::size_t all = std::size(kernels::all_features);
  constexpr kernels::isa by_count[] = {generic, generic, avx2, avx2, avx2, avx2, avx512, avx512_bf16, avx512_bf16, amx};
  static_assert(std::size(by_count) == all + 1);
  const auto choose = [](const kernels::cpu_features& has, bool permitted, int& asked) {
    const auto ask = [&] {
      ++asked;
      return permitted;
    };
    const kernels::isa for_float = kernels::choose_isa<float>(has, ask);
    EXPECT_EQ(asked, 0) << "floats need no tile registers";
    return std::pair(for_float, kernels::choose_isa<bf16>(has, ask));
  };
  for (std::size_t count = 0; count <= all; ++count) {
    for (const bool permitted : {false, true}) {
      int asked = 0;
      const auto [for_float, for_bf16] = choose(with_features(count), permitted, asked);
      EXPECT_EQ(for_float, std::min(by_count[count], avx512)) << count;
      EXPECT_EQ(for_bf16, permitted ? by_count[count] : std::min(by_count[count], avx512_bf16)) << count;
      EXPECT_EQ(asked, count == all ? 1 : 0) << "the permission is asked for where nothing else is missing: " << count;
    }
  }
  // each feature is needed: without it alone the choice is what it was before the set that needs it
  constexpr kernels::isa without[] = {generic, generic, avx2, avx2, avx2, avx2, avx512, avx512_bf16, avx512_bf16};
  static_assert(std::size(without) == all);
  for (std::size_t i = 0; i < all; ++i) {
    kernels::cpu_features has = with_features(all);
    has.*kernels::all_features[i].there = false;
    int asked = 0;
    const auto [for_float, for_bf16] = choose(has, true, asked);
    EXPECT_EQ(for_float, std::min(without[i], avx512)) << kernels::all_features[i].name;
    EXPECT_EQ(for_bf16, without[i]) << kernels::all_features[i].name;
    EXPECT_EQ(asked, 0) << kernels::all_features[i].name;
  }
}

/// Sets with float kernels that this CPU has.
std::vector<kernels::isa> float_sets() {
  std::vector<kernels::isa> found;
  for (const kernels::isa set : kernels::all_isas) {
    if (set <= kernels::best_isa_for<float>()) found.push_back(set);
  }
  return found;
}

/// A kernel that says how wide its vectors are.
template <class vec>
struct width_probe {
  ESFT_EIGEN_INLINE static void run(index* lanes) { *lanes = kernels::lanes_of<vec>; }
};

TEST(native, a_kernel_runs_in_the_vectors_of_its_instruction_set) {
  constexpr index lanes[] = {4, 8, 16};
  for (const kernels::isa set : float_sets()) {
    index found = 0;
    kernels::call<width_probe>(set, &found);
    EXPECT_EQ(found, lanes[static_cast<std::size_t>(set)]) << kernels::name_of(set);
  }
}

// The counts of `products` tell families apart, not instruction sets within one: here the block kernels below them say which ran.
TEST(native, the_block_kernels_of_the_instruction_set_run) {
  constexpr index depth = 5;
  const std::vector<float> ones(std::size_t{3 * depth * kernels::panel_width}, 1.0F);
  const float* const a = ones.data();
  for (const kernels::isa set : float_sets()) {
    SCOPED_TRACE(kernels::name_of(set));
    for (const index vectors : {1, 2, 3}) {
      const index columns = vectors * kernels::panel_width;
      std::vector<float> c(static_cast<std::size_t>(16 * columns));
      EXPECT_EQ(kernels::multiply_panels(set, 16, vectors, depth, a, 0, a, 0, {c.data(), columns, kernels::panel_width}, false), set);
      EXPECT_EQ(c.back(), static_cast<float>(depth));
      for (const index fewer : {columns, columns - 3}) {
        EXPECT_EQ(kernels::block_product<kernels::order::rows>(set, 4, fewer, depth, a, depth, a, columns, c.data(), columns, false), set);
        EXPECT_EQ(kernels::block_product<kernels::order::columns>(set, 4, fewer, depth, a, 4, a, columns, c.data(), columns, false), set);
      }
    }
  }
}

constexpr std::string_view families[] = {"plain", "panels", "pairs", "tiles"};

/// How many products each family has served.
template <class T>
std::map<std::string_view, std::int64_t> served(const eigen_backend<T>& b) {
  std::map<std::string_view, std::int64_t> counts;
  for (const std::string_view family : families) counts[family] = b.products(family);
  return counts;
}

/// Runs `call` and checks that `family` served `count` products, and no other family any.
template <class T, class Call>
void expect_served(eigen_backend<T>& b, std::string_view family, std::int64_t count, const std::string& name, Call&& call) {
  auto expected = served(b);
  expected.at(family) += count;
  call();
  EXPECT_EQ(served(b), expected) << name;
}

template <class T>
class native_products : public testing::Test {};
using storage_types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(native_products, storage_types);

/// The family that is meant for weights in the backend's own layout.
template <class T>
std::string_view meant(const eigen_backend<T>& b) {
  return b.isa() == "amx" ? "tiles" : b.isa() == "avx512_bf16" ? "pairs" : "panels";
}

/// Runs `check(backend, layout, family)` for every instruction set of this CPU and both layouts.
template <class T, class Check>
void on_every_path(Check&& check) {
  for (const auto set : kernels::all_isas) {
    if (set > kernels::best_isa_for<T>()) continue;
    for (const arrangement how : {arrangement::row_major, arrangement::packed}) {
      eigen_backend<T> backend(1);
      backend.use(kernels::name_of(set));
      SCOPED_TRACE(std::string(backend.isa()) + (how == arrangement::packed ? ", packed" : ", row-major"));
      check(backend, how, how == arrangement::packed ? meant(backend) : "plain");
    }
  }
}

TYPED_TEST(native_products, each_is_served_once_by_the_kernels_of_the_layout) {
  using T = TypeParam;
  on_every_path<T>([](eigen_backend<T>& b, arrangement how, std::string_view family) {
    int ops = 0;
    for_each_matrix_op([&](const std::string& name, rule, auto make, auto run) {
      for (const index rows : {1, 37, 300}) {  // also few rows, which some families take apart
        generator g(3);
        const inputs in = rounded<eigen_backend<T>>(make(sizes{rows, 96, 64}, g));
        expect_served(b, family, 1, name, [&] { static_cast<void>(run(lab(b, in, how))); });
      }
      generator g(3);
      const inputs odd = rounded<eigen_backend<T>>(make(sizes{37, 40, 70}, g));  // whole tiles do not cover it
      expect_served(b, "plain", 1, name + " without tiles", [&] { static_cast<void>(run(lab(b, odd, how))); });
      ++ops;
    });
    EXPECT_EQ(ops, 18);  // linear, linear_dx, logits_dx twice each; linear_dw, logits, logits_dw; three grouped ones on three patterns
  });
}

/// Operands of the products of a layer's experts, all ones: 5 experts, of which one has no row.
template <class T>
struct expert_operands {
  static constexpr index tokens = 37, active = 2, rows = tokens * active, experts = 5, width = 64, inner = 96;

  expert_operands(eigen_backend<T>& b, matrix_layout layout)
      : x(ones<T>(b, extents<2>{tokens, width})),
        dy(ones<T>(b, extents<2>{tokens, width})),
        row_x(ones<T>(b, extents<2>{rows, width})),
        gate_up(ones<T>(b, extents<2>{rows, 2 * inner})),
        h(ones<T>(b, extents<2>{rows, inner})),
        weights(ones<float>(b, extents<2>{tokens, active})),
        gate_up_weight(ones<T>(b, extents<3>{experts, 2 * inner, width}), layout),
        down_weight(ones<T>(b, extents<3>{experts, width, inner}), layout),
        some_gate_up(ones<T>(b, extents<3>{2, 2 * inner, width}), layout),
        some_down(ones<T>(b, extents<3>{2, width, inner}), layout),
        gate_up_gradient(ones<float>(b, extents<3>{2, 2 * inner, width}), layout),
        down_gradient(ones<float>(b, extents<3>{2, width, inner}), layout),
        offsets(make_host_tensor<std::int32_t, 1>({experts + 1})),
        row_slot(make_host_tensor<std::int32_t, 1>({rows})) {
    const std::int32_t ends[] = {0, 3, 3, 31, 60, 74};
    std::copy(std::begin(ends), std::end(ends), offsets.data());
    for (index r = 0; r < rows; ++r) row_slot.data()[r] = static_cast<std::int32_t>(r * 5 % rows);
  }
  template <class U, std::size_t R>
  static host_tensor<U, R> ones(eigen_backend<T>& b, extents<R> shape) {
    auto t = b.template make_tensor<U>(shape);
    b.fill(t.view(), U(1.0F));
    return t;
  }
  /// Rows of a matrix [tokens, width], as routing asks for them.
  gathered_rows<const T, host_space> routed(const host_tensor<T, 2>& of) const { return {of.view(), row_slot.view(), active}; }

  host_tensor<T, 2> x, dy, row_x, gate_up, h;
  host_tensor<float, 2> weights;
  matrix_tensor<T, 3, host_space> gate_up_weight, down_weight, some_gate_up, some_down;
  matrix_tensor<float, 3, host_space> gate_up_gradient, down_gradient;
  host_tensor<std::int32_t, 1> offsets, row_slot;
  std::vector<std::int32_t> selected{0, 3};
};

TYPED_TEST(native_products, gathered_selected_and_fused_ones_are_served_by_the_kernels_of_the_layout) {
  using T = TypeParam;
  on_every_path<T>([](eigen_backend<T>& b, arrangement how, std::string_view family) {
    expert_operands<T> o(b, how == arrangement::packed ? eigen_backend<T>::tile : matrix_layout{});
    const expert_operands<T>& in = o;
    const auto at = in.offsets.view();
    const auto once = [&](const char* name, auto&& call) { expect_served(b, family, 1, name, call); };
    // every product of an expert, its rows gathered or as they lie
    once("grouped_linear", [&] { b.grouped_linear(in.routed(in.x), in.gate_up_weight.matrix(), at, o.gate_up.view()); });
    once("grouped_linear_dx", [&] { b.grouped_linear_dx(in.routed(in.dy), in.down_weight.matrix(), at, o.h.view()); });
    once("dw, dy gathered", [&] { b.grouped_linear_dw(in.routed(in.dy), in.h.view(), at, o.selected, o.down_gradient.matrix()); });
    once("dw, x gathered", [&] { b.grouped_linear_dw(in.gate_up.view(), in.routed(in.x), at, o.selected, o.gate_up_gradient.matrix()); });
    for (const write_mode mode : {write_mode::overwrite, write_mode::accumulate}) {
      once("selected", [&] { b.grouped_linear(in.h.view(), in.some_down.matrix(), at, o.selected, o.row_x.view(), mode); });
      once("selected, gathered",
           [&] { b.grouped_linear(in.routed(in.x), in.some_gate_up.matrix(), at, o.selected, o.gate_up.view(), mode); });
      once("selected dx", [&] { b.grouped_linear_dx(in.gate_up.view(), in.some_gate_up.matrix(), at, o.selected, o.row_x.view(), mode); });
      once("selected dx, gathered",
           [&] { b.grouped_linear_dx(in.routed(in.dy), in.some_down.matrix(), at, o.selected, o.h.view(), mode); });
    }
    once("swiglu", [&] { b.grouped_swiglu(in.row_x.view(), in.gate_up_weight.matrix(), at, o.gate_up.view(), o.h.view()); });
    once("swiglu, gathered", [&] { b.grouped_swiglu(in.routed(in.x), in.gate_up_weight.matrix(), at, o.gate_up.view(), o.h.view()); });
    if constexpr (has_grouped_mlp<eigen_backend<T>>) {
      const std::int64_t both = family == "tiles" || family == "pairs" ? 2 : 0;  // others take the two products one by one
      expect_served(b, family, both, "grouped_mlp", [&] {
        EXPECT_EQ(b.grouped_mlp(in.routed(in.x), in.gate_up_weight.matrix(), in.down_weight.matrix(), at, nullptr, nullptr,
                                o.gate_up.view(), o.row_x.view()),
                  both > 0);
      });
      auto dgate_up = expert_operands<T>::template ones<T>(b, in.gate_up.shape());
      auto dweights = expert_operands<T>::template ones<float>(b, in.weights.shape());
      expect_served(b, family, both, "grouped_mlp_backward", [&] {
        EXPECT_EQ(b.grouped_mlp_backward(in.routed(in.dy), in.gate_up_weight.matrix(), in.down_weight.matrix(), at, o.selected, nullptr,
                                         nullptr, in.gate_up.view(), in.weights.view(), in.row_slot.view(), dgate_up.view(), o.h.view(),
                                         o.row_x.view(), dweights.view()),
                  both > 0);
      });
    }
  });
  EXPECT_THROW(static_cast<void>(eigen_backend<T>(1).products("abacus")), contract_violation);
}

TEST(native, an_older_instruction_set_can_be_chosen_and_an_unknown_one_cannot) {
  eigen_backend<float> backend(1);
  backend.use("generic");
  EXPECT_EQ(backend.isa(), "generic");
  EXPECT_THROW(backend.use("abacus"), contract_violation);
}

TEST(native, wrong_shapes_and_ids_are_refused) {
  eigen_backend<float> backend(1);
  auto a = backend.make_tensor<float>(extents<2>{3, 4});
  auto b = backend.make_tensor<float>(extents<2>{5, 4});
  auto y = backend.make_tensor<float>(extents<2>{3, 5});
  backend.fill(a.view(), 1);
  backend.fill(b.view(), 1);
  EXPECT_NO_THROW(backend.linear(std::as_const(a).view(), std::as_const(b).view(), y.view(), write_mode::overwrite));
  EXPECT_EQ(y.view()(2, 4), 4);
  EXPECT_THROW(backend.linear(std::as_const(b).view(), std::as_const(a).view(), y.view(), write_mode::overwrite), contract_violation);
  auto ids = make_host_tensor<std::int32_t, 1>({3});
  for (const std::int32_t bad : {-1, 5}) {
    ids.data()[0] = ids.data()[1] = 0;
    ids.data()[2] = bad;
    EXPECT_THROW(backend.embedding(std::as_const(ids).view(), std::as_const(b).view(), a.view()), contract_violation);
  }
}

TEST(native, large_tensors_reuse_memory_and_keep_their_alignment) {
  eigen_backend<float> backend(1);
  const void* first = nullptr;
  {
    auto t = backend.make_tensor<float>(extents<1>{100003});
    first = t.data();
  }
  auto again = backend.make_tensor<float>(extents<1>{100001});
  auto other = backend.make_tensor<float>(extents<1>{100001});
#if !defined(__SANITIZE_ADDRESS__)
  EXPECT_EQ(again.data(), first);
#endif
  EXPECT_NE(again.data(), other.data());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(other.data()) % 64, 0U);
}

TEST(native, size_classes_hold_what_they_are_asked_for_and_waste_at_most_a_quarter) {
  using detail::eigen::block_cache;
  for (std::size_t bytes = block_cache::least; bytes < (std::size_t{1} << 40); bytes += bytes / 7 + 1) {
    const std::size_t held = block_cache::size_of_class(block_cache::class_of(bytes));
    EXPECT_GE(held, bytes);
    EXPECT_LE(held, bytes + bytes / 4 + 64);
  }
  for (const std::size_t power : {17U, 20U, 33U})
    EXPECT_EQ(block_cache::size_of_class(block_cache::class_of(std::size_t{1} << power)), std::size_t{1} << power);
}

TEST(native, non_finite_logits_give_a_non_finite_loss) {
  eigen_backend<float> backend(1);
  auto logits = backend.make_tensor<float>(extents<2>{1, 20});
  auto labels = make_host_tensor<std::int32_t, 1>({1});
  labels.data()[0] = 3;
  backend.fill(logits.view(), 0.5F);
  EXPECT_NEAR(backend.cross_entropy(logits.view(), std::as_const(labels).view(), 1), std::log(20.0), 1e-6);
  backend.fill(logits.view(), 0.5F);
  logits.data()[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(backend.cross_entropy(logits.view(), std::as_const(labels).view(), 1)));
}

}  // namespace native_tests
}  // namespace esft::test
