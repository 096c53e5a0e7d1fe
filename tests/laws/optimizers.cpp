// SPDX-License-Identifier: Apache-2.0
// What every optimizer promises, on every built-in optimizer and every backend.
#include "backend_list.hpp"
#include "numeric.hpp"

#include <esft/optim/optimizers.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace laws_optimizers_tests {

using esft::index;

/// How the suite makes an optimizer, with weight decay or without, and how a saved run of it goes on.
template <class Optimizer>
struct make_optimizer;
template <class Backend>
struct make_optimizer<esft::adamw_optimizer<Backend>> {
  using optimizer = esft::adamw_optimizer<Backend>;
  static optimizer with(Backend& b, std::vector<esft::trained_slice<Backend>> slices, bool decay) {
    esft::adamw_options options;
    options.weight_decay = decay ? 0.1 : 0.0;
    return optimizer(b, std::move(slices), options);
  }
  static void load(Backend& b, optimizer& saved, optimizer& into) {
    into.steps = saved.steps;
    b.copy(saved.master.all(), into.master.all());
    b.copy(saved.first_moment.all(), into.first_moment.all());
    b.copy(saved.second_moment.all(), into.second_moment.all());
    into.restore_weights(b);
  }
};

/// Twelve weights of which [1, 4), an expert say, and [6, 11) are trained.
template <class Backend>
struct half_frozen {
  using T = esft::value_t<Backend>;
  using sum = esft::accum_t<Backend>;
  static constexpr index size = 12;
  static constexpr index trained = 8;

  explicit half_frozen(Backend& backend)
      : b(backend),
        value(esft_test::random_tensor<T>(backend, esft::extents<1>{size}, 1)),
        gradient(esft_test::random_tensor<sum>(backend, esft::extents<1>{size}, 2)) {}

  [[nodiscard]] std::vector<esft::trained_slice<Backend>> slices() {
    std::vector<esft::trained_slice<Backend>> result;
    for (const auto& [begin, end] : {std::pair<index, index>{1, 4}, {6, 11}}) {
      result.push_back({{}, -1, true, value.view().slice(begin, end), gradient.view().slice(begin, end)});
    }
    return result;
  }
  static bool is_trained(std::size_t i) { return (i >= 1 && i < 4) || (i >= 6 && i < 11); }
  [[nodiscard]] std::vector<double> weights() { return esft_test::to_host(b, value); }
  /// Steps `first` to `last`, each with a gradient of its own.
  template <class Optimizer>
  void run(Optimizer& o, std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t step = first; step <= last; ++step) {
      const auto numbers = esft_test::normal_numbers(static_cast<std::size_t>(size), 100 + step);
      b.copy_in(std::span<const double>(numbers), gradient.view());
      o.update(b, 0.01, 0.5);
    }
  }

  Backend& b;
  esft::tensor_t<Backend, T, 1> value;
  esft::tensor_t<Backend, sum, 1> gradient;
};

template <class Backend>
class optimizer_laws : public ::testing::Test {};
TYPED_TEST_SUITE(optimizer_laws, esft_test::backends, esft_test::backend_names);

/// Runs a property with every built-in optimizer: `property(make)`, of which `make.with` and `make.load` are as above.
template <class Backend, class Property>
void for_each_optimizer(Property&& property) {
  esft::builtin_optimizers<Backend>::for_each([&]<class Optimizer>() {
    static_assert(esft::optimizer<Optimizer, Backend>);
    SCOPED_TRACE(std::string(Optimizer::name));
    property(make_optimizer<Optimizer>{});
  });
}

TYPED_TEST(optimizer_laws, state_exists_for_what_is_trained_alone) {
  TypeParam b;
  for_each_optimizer<TypeParam>([&](auto make) {
    using optimizer = typename decltype(make)::optimizer;
    half_frozen<TypeParam> model(b);
    EXPECT_EQ(make.with(b, model.slices(), true).state_bytes(), model.trained * optimizer::state_bytes_per_element);
    auto fewer = model.slices();
    fewer.pop_back();
    EXPECT_EQ(make.with(b, fewer, true).state_bytes(), 3 * optimizer::state_bytes_per_element);
  });
}

TYPED_TEST(optimizer_laws, what_is_trained_moves_and_the_rest_keeps_its_bits) {
  TypeParam b;
  for_each_optimizer<TypeParam>([&](auto make) {
    half_frozen<TypeParam> model(b);
    const auto before = model.weights();
    auto o = make.with(b, model.slices(), true);
    model.run(o, 1, 3);
    const auto after = model.weights();
    for (std::size_t i = 0; i < before.size(); ++i) EXPECT_EQ(after[i] != before[i], model.is_trained(i)) << i;
  });
}

TYPED_TEST(optimizer_laws, rate_zero_changes_no_bit) {
  TypeParam b;
  for_each_optimizer<TypeParam>([&](auto make) {
    half_frozen<TypeParam> model(b);
    const auto before = model.weights();
    auto o = make.with(b, model.slices(), true);
    for (int step = 0; step < 3; ++step) o.update(b, 0, 1);
    EXPECT_EQ(model.weights(), before);
  });
}

TYPED_TEST(optimizer_laws, gradient_zero_without_decay_changes_no_bit) {
  TypeParam b;
  for_each_optimizer<TypeParam>([&](auto make) {
    for (const bool decay : {false, true}) {
      half_frozen<TypeParam> model(b);
      b.fill(model.gradient.view(), esft::accum_t<TypeParam>{});
      const auto before = model.weights();
      auto o = make.with(b, model.slices(), decay);
      for (int step = 0; step < 3; ++step) o.update(b, 0.01, 1);
      EXPECT_EQ(model.weights() == before, !decay);
    }
  });
}

TYPED_TEST(optimizer_laws, the_same_steps_give_the_same_bits) {
  TypeParam b;
  for_each_optimizer<TypeParam>([&](auto make) {
    half_frozen<TypeParam> first(b);
    half_frozen<TypeParam> second(b);
    auto one = make.with(b, first.slices(), true);
    auto other = make.with(b, second.slices(), true);
    first.run(one, 1, 5);
    second.run(other, 1, 5);
    EXPECT_EQ(first.weights(), second.weights());
  });
}

TYPED_TEST(optimizer_laws, a_saved_run_goes_on_as_if_it_had_not_stopped) {
  TypeParam b;
  for_each_optimizer<TypeParam>([&](auto make) {
    half_frozen<TypeParam> whole(b);
    half_frozen<TypeParam> parts(b);
    auto undisturbed = make.with(b, whole.slices(), true);
    auto saved = make.with(b, parts.slices(), true);
    whole.run(undisturbed, 1, 6);
    parts.run(saved, 1, 3);
    half_frozen<TypeParam> loaded(b);
    auto resumed = make.with(b, loaded.slices(), true);
    make.load(b, saved, resumed);
    EXPECT_EQ(loaded.weights(), parts.weights());
    loaded.run(resumed, 4, 6);
    EXPECT_EQ(loaded.weights(), whole.weights());
    auto fresh = make.with(b, parts.slices(), true);  // the twin: weights without the state
    parts.run(fresh, 4, 6);
    EXPECT_NE(parts.weights(), whole.weights());
  });
}

}  // namespace laws_optimizers_tests
