// SPDX-License-Identifier: Apache-2.0
// Attention of bf16 heads on tile registers: that it ran, against the reference in double, and the same bits from any number of threads.
#include "ops.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/attention_backward.hpp>

#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

namespace esft::test {
namespace attention_amx_tests {

namespace kernels = detail::eigen;

/// One call's operands: `heads` query heads share `shared` key-value heads, documents of `document` tokens, causal.
struct attention_case {
  index tokens, heads, shared, width, document;
  double scale = 0.3;
  double logits = 1;  ///< factor on the queries
  index window = 1 << 20;  ///< keys that a token sees at most
};

struct attention_results {
  std::vector<bf16> o, dq, dk, dv;
  std::vector<float> lse;
  kernels::isa forward, backward;
};

class attention_lab {
 public:
  explicit attention_lab(const attention_case& c) : c_(c) {
    generator g(static_cast<std::uint64_t>(c.tokens + 1000 * c.width));
    q_ = values(g, c.heads, c.logits);
    k_ = values(g, c.shared, 1);
    v_ = values(g, c.shared, 1);
    d_o_ = values(g, c.heads, 1);
    for (index t = 0; t < c.tokens; ++t) {
      begin_.push_back(static_cast<std::int32_t>(std::max(t - t % c.document, t + 1 - c.window)));
      end_.push_back(static_cast<std::int32_t>(t + 1));
    }
  }
  void hide_keys_of(index t) { end_[static_cast<std::size_t>(t)] = begin_[static_cast<std::size_t>(t)]; }

  attention_results run(kernels::isa set, int threads) const {
    kernels::machine m(threads, set);
    const kernels::attention_shape shape{c_.heads, c_.shared, c_.width, static_cast<float>(c_.scale)};
    attention_results r{};
    const auto nan = bf16(std::numeric_limits<float>::quiet_NaN());
    r.o.assign(q_.size(), nan);
    r.dq.assign(q_.size(), nan);
    r.dk.assign(k_.size(), nan);
    r.dv.assign(k_.size(), nan);
    r.lse.assign(static_cast<std::size_t>(c_.tokens * c_.heads), std::numeric_limits<float>::quiet_NaN());
    r.forward = kernels::attention_forward(m, shape, q_.data(), k_.data(), v_.data(), begin_.data(), end_.data(), c_.tokens, r.o.data(),
                                           r.lse.data());
    const kernels::attention_gradients<bf16> operands{q_.data(),     k_.data(),   v_.data(),   r.o.data(), r.lse.data(), d_o_.data(),
                                                      begin_.data(), end_.data(), r.dq.data(), r.dk.data(), r.dv.data()};
    r.backward = kernels::attention_backward_all(m, shape, operands, c_.tokens, c_.tokens);
    return r;
  }
  /// The same in double; the backward starts from the o and lse that `from` stored.
  std::vector<std::vector<double>> reference(const attention_results& from) const {
    const auto q = wide(q_, c_.heads);
    const auto k = wide(k_, c_.shared);
    const auto v = wide(v_, c_.shared);
    const auto d_o = wide(d_o_, c_.heads);
    const auto stored_o = wide(from.o, c_.heads);
    auto o = make_host_tensor<double, 3>(q.shape());
    auto dq = make_host_tensor<double, 3>(q.shape());
    auto dk = make_host_tensor<double, 3>(k.shape());
    auto dv = make_host_tensor<double, 3>(k.shape());
    auto lse = make_host_tensor<double, 2>({c_.tokens, c_.heads});
    const host_view<const std::int32_t, 1> begin(begin_.data(), {c_.tokens});
    const host_view<const std::int32_t, 1> end(end_.data(), {c_.tokens});
    reference_backend<double> plain;
    const double scale = static_cast<double>(static_cast<float>(c_.scale));
    plain.attention(q.view(), k.view(), v.view(), begin, end, scale, o.view(), lse.view());
    plain.attention_backward(q.view(), k.view(), v.view(), stored_o.view(), std::as_const(lse).view(), d_o.view(), begin, end, scale,
                             dq.view(), dk.view(), dv.view());
    const auto list = [](const auto& t) { return std::vector<double>(t.data(), t.data() + t.size()); };
    return {list(o), list(lse), list(dq), list(dk), list(dv)};
  }

 private:
  std::vector<bf16> values(generator& g, index heads, double scale) const {
    std::vector<bf16> result;
    for (const double x : g({c_.tokens, heads, c_.width}, scale).values) result.emplace_back(static_cast<float>(x));
    return result;
  }
  host_tensor<double, 3> wide(const std::vector<bf16>& from, index heads) const {
    auto t = make_host_tensor<double, 3>({c_.tokens, heads, c_.width});
    for (index i = 0; i < t.size(); ++i) t.data()[i] = static_cast<double>(from[static_cast<std::size_t>(i)]);
    return t;
  }

  attention_case c_;
  std::vector<bf16> q_, k_, v_, d_o_;
  std::vector<std::int32_t> begin_, end_;
};

template <class T>
std::vector<double> doubles(const std::vector<T>& x) {
  return {x.begin(), x.end()};
}
template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}
bool same(const attention_results& a, const attention_results& b) {
  return same(a.o, b.o) && same(a.lse, b.lse) && same(a.dq, b.dq) && same(a.dk, b.dk) && same(a.dv, b.dv);
}
bool has_tiles() { return kernels::best_isa() >= kernels::isa::amx; }

constexpr attention_case cases[] = {
    {1, 2, 1, 32, 8},    {33, 4, 1, 96, 7},     {65, 2, 2, 128, 400}, {100, 4, 2, 32, 23},
    {129, 4, 2, 64, 40}, {150, 2, 1, 128, 131}, {70, 1, 1, 192, 70},  {331, 2, 1, 32, 331},  // the last: several panels and chunks
    {331, 4, 2, 64, 331, 0.3, 1, 128}, {200, 2, 1, 32, 150, 0.3, 1, 20},
};

TEST(attention_on_tiles, runs_where_the_cpu_has_them_and_the_head_is_of_whole_steps) {
  if (!has_tiles()) GTEST_SKIP() << "this CPU has no AMX";
  for (const attention_case& c : cases) {
    const attention_results r = attention_lab(c).run(kernels::isa::amx, 1);
    EXPECT_EQ(r.forward, kernels::isa::amx) << c.width;
    EXPECT_EQ(r.backward, kernels::isa::amx) << c.width;
  }
  const attention_results narrow = attention_lab({40, 2, 1, 24, 40}).run(kernels::isa::amx, 1);
  EXPECT_EQ(narrow.forward, kernels::isa::avx512);
  EXPECT_EQ(narrow.backward, kernels::isa::avx512);
  EXPECT_EQ(attention_lab(cases[3]).run(kernels::isa::avx512, 1).forward, kernels::isa::avx512);
}

TEST(attention_on_tiles, matches_the_reference_in_double) {
  if (!has_tiles()) GTEST_SKIP() << "this CPU has no AMX";
  for (const attention_case& c : cases) {
    const attention_lab l(c);
    const attention_results r = l.run(kernels::isa::amx, 2);
    const auto expected = l.reference(r);
    const std::vector<double> actual[] = {doubles(r.o), doubles(r.lse), doubles(r.dq), doubles(r.dk), doubles(r.dv)};
    const char* const names[] = {"o", "lse", "dq", "dk", "dv"};
    for (std::size_t i = 0; i < 5; ++i) {
      const precision kind = i == 1 ? precision::summed : precision::stored;
      const double factor = i == 1 ? factor_of(rule::reduction, {c.tokens, 1, c.width}) : rounded_weights;
      const comparison result = compare(actual[i], expected[i], {}, kind, true, factor);
      EXPECT_TRUE(result.passed) << names[i] << " of T " << c.tokens << " F " << c.width << ": " << result.what;
    }
  }
}

TEST(attention_on_tiles, gives_the_same_bits_for_any_number_of_threads) {
  if (!has_tiles()) GTEST_SKIP() << "this CPU has no AMX";
  for (const attention_case& c : {attention_case{700, 4, 2, 64, 130}, attention_case{400, 4, 4, 128, 400}}) {
    const attention_lab l(c);
    const attention_results one = l.run(kernels::isa::amx, 1);
    for (const int threads : {1, 2, 4}) EXPECT_TRUE(same(l.run(kernels::isa::amx, threads), one)) << threads << " threads";
    attention_case other = c;
    other.scale *= 1.01;  // the comparison sees other bits
    EXPECT_FALSE(same(attention_lab(other).run(kernels::isa::amx, 1), one));
  }
}

TEST(attention_on_tiles, large_logits_stay_finite_and_right) {
  if (!has_tiles()) GTEST_SKIP() << "this CPU has no AMX";
  const attention_lab l({200, 2, 1, 64, 90, 1, 10});  // scores of +-80 and more: e^80 summed would leave float's range when squared
  const attention_results r = l.run(kernels::isa::amx, 2);
  const auto expected = l.reference(r);
  double largest = 0;
  for (const double x : expected[1]) largest = std::max(largest, x);
  EXPECT_GT(largest, 80);
  EXPECT_TRUE(compare(doubles(r.o), expected[0], {}, precision::stored, true, rounded_weights).passed);
  for (const auto* part : {&r.o, &r.dq, &r.dk, &r.dv}) {
    for (const bf16 x : *part) ASSERT_TRUE(std::isfinite(static_cast<float>(x)));
  }
}

TEST(attention_on_tiles, a_query_without_keys_gives_zeros_and_leaves_the_others_alone) {
  if (!has_tiles()) GTEST_SKIP() << "this CPU has no AMX";
  const attention_case c{150, 2, 1, 32, 60};
  attention_lab l(c);
  const attention_results before = l.run(kernels::isa::amx, 1);
  l.hide_keys_of(77);
  const attention_results after = l.run(kernels::isa::amx, 1);
  const index row = c.heads * c.width;
  for (index i = 0; i < c.tokens * row; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (i / row == 77) {
      EXPECT_NE(static_cast<float>(before.o[at]), 0);
      EXPECT_EQ(static_cast<float>(after.o[at]), 0);
      EXPECT_EQ(static_cast<float>(after.dq[at]), 0);
    } else {
      EXPECT_EQ(after.o[at].bits, before.o[at].bits);
      EXPECT_EQ(after.dq[at].bits, before.dq[at].bits);
    }
  }
  for (index h = 0; h < c.heads; ++h) EXPECT_EQ(after.lse[static_cast<std::size_t>(77 * c.heads + h)], -std::numeric_limits<float>::infinity());
}

TEST(attention_on_tiles, keys_that_nobody_sees_get_zero_gradients) {
  if (!has_tiles()) GTEST_SKIP() << "this CPU has no AMX";
  const attention_case c{96, 1, 1, 32, 96};
  attention_lab l(c);
  l.hide_keys_of(95);  // key 95 was seen by query 95 alone
  const attention_results r = l.run(kernels::isa::amx, 1);
  for (index f = 0; f < c.width; ++f) {
    EXPECT_EQ(static_cast<float>(r.dv[static_cast<std::size_t>(95 * c.width + f)]), 0);
    EXPECT_EQ(static_cast<float>(r.dk[static_cast<std::size_t>(95 * c.width + f)]), 0);
    EXPECT_NE(static_cast<float>(r.dv[static_cast<std::size_t>(94 * c.width + f)]), 0);
  }
}

}  // namespace attention_amx_tests
}  // namespace esft::test
