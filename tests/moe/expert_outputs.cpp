// SPDX-License-Identifier: Apache-2.0
// The norms that scorers see, against plain loops over the layer's own weights.
#include "backend_list.hpp"
#include "moe_case.hpp"

#include <esft/moe/expert_outputs.hpp>

#include <cmath>

namespace moe_expert_outputs_tests {

using esft_test::moe_case;
using esft_test::to_host;

template <class Backend>
class expert_outputs : public ::testing::Test {};
TYPED_TEST_SUITE(expert_outputs, esft_test::backends, esft_test::backend_names);

TYPED_TEST(expert_outputs, have_the_norms_of_each_chosen_expert_before_its_gate_weight) {
  TypeParam backend;
  moe_case<TypeParam> layer(backend, {});
  const auto y = layer.forward();
  const auto norms = esft::expert_output_norms(backend, layer.p, layer.saved);
  const auto ids = layer.ids();
  const auto x = to_host(backend, layer.x);
  const auto gate_up = to_host(backend, layer.p.gate_up.value);
  const auto down = to_host(backend, layer.p.down.value);
  const auto width = static_cast<std::size_t>(layer.shape.width);
  const auto inner = static_cast<std::size_t>(layer.shape.expert_width);
  const auto active = static_cast<std::size_t>(layer.shape.active);
  ASSERT_EQ(norms.size(), ids.size());
  std::vector<double> wanted;
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    const std::size_t token = slot / active;
    const auto expert = static_cast<std::size_t>(ids[slot]);
    const auto product = [&](std::size_t row) {
      double sum = 0;
      for (std::size_t d = 0; d < width; ++d) sum += gate_up[(expert * 2 * inner + row) * width + d] * x[token * width + d];
      return sum;
    };
    double squares = 0;
    for (std::size_t d = 0; d < width; ++d) {
      double sum = 0;
      for (std::size_t i = 0; i < inner; ++i) {
        const double gate = product(i);
        sum += down[(expert * width + d) * inner + i] * gate / (1 + std::exp(-gate)) * product(inner + i);
      }
      squares += sum * sum;
    }
    wanted.push_back(std::sqrt(squares));
  }
  esft_test::expect_close({norms.begin(), norms.end()}, wanted, 1e-5, "norms [T, K]");  // they are kept in float
  EXPECT_EQ(layer.forward(), y) << "looking changes nothing";
}

TYPED_TEST(expert_outputs, of_empty_slots_are_zero) {
  TypeParam backend;
  moe_case<TypeParam> layer(backend, {});
  layer.forward();
  const auto all = esft::expert_output_norms(backend, layer.p, layer.saved);
  auto ids = layer.ids();
  ids[1] = ids[6] = esft::no_expert;
  layer.saved.decision.ids = esft_test::make_ids(backend, layer.saved.decision.ids.shape(), ids);
  const auto old_row = to_host<std::int32_t>(backend, layer.saved.plan.slot_row);
  layer.saved.plan = esft::plan_dispatch(backend, std::as_const(layer.saved.decision.ids).view(), layer.shape.experts);
  const auto gate_up = to_host(backend, layer.saved.gate_up);  // its rows move up where slots are gone
  const auto new_row = to_host<std::int32_t>(backend, layer.saved.plan.slot_row);
  const auto columns = gate_up.size() / old_row.size();
  std::vector<double> moved(gate_up.size());
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    if (new_row[slot] == esft::no_expert) continue;
    const auto from = gate_up.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(old_row[slot]) * columns);
    std::copy_n(from, columns, moved.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(new_row[slot]) * columns));
  }
  layer.saved.gate_up = esft_test::make<esft::value_t<TypeParam>>(backend, layer.saved.gate_up.shape(), moved);
  auto wanted = all;
  wanted[1] = wanted[6] = 0;
  EXPECT_EQ(esft::expert_output_norms(backend, layer.p, layer.saved), wanted);
}

}  // namespace moe_expert_outputs_tests
