// SPDX-License-Identifier: Apache-2.0
// Every op refuses what does not fit: each extent of each argument, one too many and one too few, and ids out of range.
#include "ops.hpp"

#include <esft/backends/eigen.hpp>

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace esft::test {
namespace shape_tests {

/// An extent of an argument of an op: which argument, which dimension of it.
using place = std::pair<std::size_t, std::size_t>;

/// A backend whose ops are called with one extent changed.
template <class Base>
class misshaping : public Base {
 public:
  static constexpr place nowhere{99, 0};
  place wrong = nowhere;
  index by = 0;
  std::map<place, index> seen;  ///< the extents that the last op was called with

#define ESFT_MISSHAPEN(op)                                                                   \
  template <class... Arguments>                                                              \
  auto op(Arguments... arguments) {                                                          \
    std::size_t i = 0;                                                                       \
    std::tuple<Arguments...> changed(arguments...);                                          \
    std::apply([&](Arguments&... each) { ((each = change(i++, each)), ...); }, changed);     \
    return std::apply([&](const Arguments&... with) { return Base::op(with...); }, changed); \
  }
  ESFT_MISSHAPEN(linear)
  ESFT_MISSHAPEN(linear_dx)
  ESFT_MISSHAPEN(linear_dw)
  ESFT_MISSHAPEN(logits)
  ESFT_MISSHAPEN(logits_dx)
  ESFT_MISSHAPEN(logits_dw)
  ESFT_MISSHAPEN(dispatch)
  ESFT_MISSHAPEN(gather)
  ESFT_MISSHAPEN(gather_sum)
  ESFT_MISSHAPEN(combine)
  ESFT_MISSHAPEN(grouped_linear)
  ESFT_MISSHAPEN(grouped_linear_dx)
  ESFT_MISSHAPEN(grouped_linear_dw)
  ESFT_MISSHAPEN(swiglu)
  ESFT_MISSHAPEN(swiglu_backward)
  ESFT_MISSHAPEN(weighted_swiglu_backward)
  ESFT_MISSHAPEN(add)
  ESFT_MISSHAPEN(adamw)
  ESFT_MISSHAPEN(sum_of_squares)
  ESFT_MISSHAPEN(embedding)
  ESFT_MISSHAPEN(embedding_dw)
  ESFT_MISSHAPEN(rms_norm)
  ESFT_MISSHAPEN(rms_norm_dx)
  ESFT_MISSHAPEN(rms_norm_dw)
  ESFT_MISSHAPEN(rope)
  ESFT_MISSHAPEN(attention)
  ESFT_MISSHAPEN(attention_backward)
  ESFT_MISSHAPEN(cross_entropy)
#undef ESFT_MISSHAPEN

  /// With room before and behind: an op that does not look reads and writes memory that is there.
  template <class U, std::size_t R>
  [[nodiscard]] host_tensor<U, R> make_tensor(extents<R> shape) {
    constexpr index room = 1024;
    auto* whole = new host_tensor<U, 1>(make_host_tensor<U, 1>({element_count(shape) + 2 * room}));
    std::fill_n(whole->data(), whole->size(), U{});
    return {whole->data() + room, shape, [](void* owner, void*) { delete static_cast<host_tensor<U, 1>*>(owner); }, whole};
  }

 private:
  template <class T>
  T change(std::size_t, const T& scalar) {
    return scalar;
  }
  template <class U, std::size_t R>
  host_view<U, R> change(std::size_t argument, const host_view<U, R>& view) {
    extents<R> shape = view.shape();
    for (std::size_t d = 0; d < R; ++d) shape[d] = changed({argument, d}, shape[d]);
    return {view.data(), shape};
  }
  template <class U, std::size_t R>
  matrix_view<U, R, host_space> change(std::size_t argument, const matrix_view<U, R, host_space>& matrix) {
    return {change(argument, matrix.elements), matrix.layout};
  }
  std::span<const std::int32_t> change(std::size_t argument, const std::span<const std::int32_t>& list) {
    return {list.data(), static_cast<std::size_t>(changed({argument, 0}, static_cast<index>(list.size())))};
  }
  template <class U>
  std::span<const std::int32_t> change(std::size_t argument, const std::span<U>& list) {
    return change(argument, std::span<const std::int32_t>(list));
  }
  index changed(place at, index extent) {
    seen[at] = extent;
    return at == wrong ? extent + by : extent;
  }
};

/// The name without what the table adds to it: the mode, the pattern of offsets.
std::string op_of(const std::string& name) { return name.substr(0, name.find_first_of("+/")); }

/// Extents that nothing else of the op speaks of: ids point there. One more is right; one fewer is wrong only if an id was the last.
const std::map<std::string, std::set<place>> free_extents{
    {"dispatch", {{1, 0}}},            // E, from the offsets
    {"gather", {{0, 0}}},              // T of x
    {"gather_sum", {{0, 0}, {1, 1}}},  // R of y, slots of a token
    {"combine", {{0, 0}}},             // R of y
    {"grouped_linear_dw", {{2, 0}}},   // E, from the offsets
    {"sum_of_squares", {{0, 0}}},
    {"embedding", {{1, 0}}},      // V
    {"embedding_dw", {{2, 0}}},   // V
    {"rope", {{0, 1}}},           // H
    {"rope_backward", {{0, 1}}},  // H
    {"cross_entropy", {{0, 1}}}   // V
};

template <class B>
class shapes : public testing::Test {
 protected:
  /// Every op with its inputs and as a call that may throw.
  template <class Visit>
  void on_each_op(Visit&& visit) {
    for_each_op([&](const std::string& name, rule, auto make, auto run) {
      generator g(7);
      inputs in = make(sizes{6, 4, 5}, g);
      visit(name, in, [&] { static_cast<void>(run(lab(backend_, in))); });
    });
  }
  misshaping<B> backend_;
};
using backends =
    testing::Types<reference_backend<float>, reference_backend<double>, reference_backend<bf16>, eigen_backend<float>, eigen_backend<bf16>>;
TYPED_TEST_SUITE(shapes, backends);

TYPED_TEST(shapes, one_more_or_one_fewer_in_any_extent_is_refused) {
  auto& backend = this->backend_;
  std::set<std::string> with_free;
  this->on_each_op([&](const std::string& name, inputs&, auto call) {
    backend.wrong = backend.nowhere;
    backend.seen.clear();
    ASSERT_NO_THROW(call()) << name;
    ASSERT_FALSE(backend.seen.empty()) << name;
    const auto at = free_extents.find(op_of(name));
    const std::set<place> free = at == free_extents.end() ? std::set<place>{} : at->second;
    if (!free.empty()) with_free.insert(op_of(name));
    const auto right = backend.seen;
    for (const auto& [where, extent] : right) {
      const std::string what = name + ": argument " + std::to_string(where.first) + ", extent " + std::to_string(where.second);
      ASSERT_GT(extent, 0) << what;
      for (const index by : {index{1}, index{-1}}) {
        backend.wrong = where;
        backend.by = by;
        if (!free.contains(where)) {
          EXPECT_THROW(call(), contract_violation) << what << (by > 0 ? ", one more" : ", one fewer");
        } else if (by > 0) {
          EXPECT_NO_THROW(call()) << what;
        }
      }
    }
  });
  EXPECT_EQ(with_free.size(), free_extents.size()) << "a name of the list is no op";
}

struct bad_id {
  std::string op;
  std::string list;
  std::size_t at;
  std::int32_t id;
};
// Inputs as `on_each_op` makes them: 6 rows, 19 tokens of vocabulary, 7 experts to dispatch to and 5 with a matrix.
const std::vector<bad_id> bad_ids{{"embedding", "ids", 2, -1},
                                  {"embedding", "ids", 2, 19},
                                  {"embedding_dw", "ids", 2, -1},
                                  {"embedding_dw", "ids", 2, 19},
                                  {"cross_entropy", "labels", 1, 6},
                                  {"cross_entropy", "labels", 1, -7},
                                  {"dispatch", "ids", 3, -2},
                                  {"dispatch", "ids", 3, 7},
                                  {"attention", "key_begin", 2, -1},
                                  {"attention", "key_end", 2, 7},
                                  {"attention_backward", "key_begin", 2, -1},
                                  {"attention_backward", "key_end", 2, 7},
                                  {"grouped_linear", "offsets", 0, -1},
                                  {"grouped_linear", "offsets", 5, 7},
                                  {"grouped_linear", "offsets", 3, -1},
                                  {"grouped_linear_dx", "offsets", 0, -1},
                                  {"grouped_linear_dx", "offsets", 5, 7},
                                  {"grouped_linear_dx", "offsets", 3, -1},
                                  {"grouped_linear_dw", "offsets", 0, -1},
                                  {"grouped_linear_dw", "offsets", 5, 7},
                                  {"grouped_linear_dw", "selected", 1, -1},
                                  {"grouped_linear_dw", "selected", 1, 5}};

TYPED_TEST(shapes, ids_out_of_range_are_refused) {
  std::set<std::string> met;
  this->on_each_op([&](const std::string& name, inputs& in, auto call) {
    const auto right = in.ids;
    ASSERT_NO_THROW(call()) << name;
    for (const bad_id& bad : bad_ids) {
      if (bad.op != op_of(name)) continue;
      in.ids = right;
      in.ids.at(bad.list).at(bad.at) = bad.id;
      EXPECT_THROW(call(), contract_violation) << name << ": " << bad.list << "[" << bad.at << "] = " << bad.id;
      met.insert(bad.op);
    }
  });
  std::set<std::string> named;
  for (const bad_id& bad : bad_ids) named.insert(bad.op);
  EXPECT_EQ(met, named);
}

TYPED_TEST(shapes, copies_need_equally_many_elements_on_both_sides) {
  auto& backend = this->backend_;
  auto five = backend.template make_tensor<float>(extents<1>{5});
  auto also_five = backend.template make_tensor<float>(extents<1>{5});
  auto four = backend.template make_tensor<float>(extents<1>{4});
  std::vector<float> host(5);
  EXPECT_NO_THROW(backend.copy(std::as_const(five).view(), also_five.view()));
  EXPECT_NO_THROW(backend.copy(five.view(), also_five.view()));
  EXPECT_NO_THROW(backend.copy_in(std::span<const float>(host), five.view()));
  EXPECT_NO_THROW(backend.copy_out(std::as_const(five).view(), std::span(host)));
  EXPECT_THROW(backend.copy(std::as_const(five).view(), four.view()), contract_violation);
  EXPECT_THROW(backend.copy(four.view(), five.view()), contract_violation);
  EXPECT_THROW(backend.copy_in(std::span<const float>(host), four.view()), contract_violation);
  EXPECT_THROW(backend.copy_out(std::as_const(four).view(), std::span(host)), contract_violation);
}

}  // namespace shape_tests
}  // namespace esft::test
