// SPDX-License-Identifier: Apache-2.0
/// @file
/// A decoder with a router of the user's own: taken as an object, used in the forward pass, checked against the configuration.

#include "backend_list.hpp"
#include "golden/goldens.hpp"
#include "tiny_model.hpp"

#include <esft/model/load.hpp>

#include <gtest/gtest.h>

namespace esft_test {
namespace own_router_tests {

using backend_type = subject;

/// The softmax router with a factor that no configuration names: a router with state.
struct scaled_router {
  static constexpr std::string_view name = "scaled";
  esft::softmax_topk_router inner;
  int label;

  [[nodiscard]] esft::index active() const { return inner.active(); }
  template <esft::backend Backend>
  [[nodiscard]] esft::routing<Backend> route(Backend& backend, esft::view_t<Backend, const esft::accum_t<Backend>, 2> logits) const {
    return inner.route(backend, logits);
  }
  template <esft::backend Backend>
  void backward(Backend& backend, const esft::routing<Backend>& decision, esft::view_t<Backend, const esft::accum_t<Backend>, 2> dweights,
                esft::view_t<Backend, const esft::accum_t<Backend>, 2> dprobabilities,
                esft::view_t<Backend, esft::accum_t<Backend>, 2> dlogits) const {
    inner.backward(backend, decision, dweights, dprobabilities, dlogits);
  }
};

TEST(own_router, the_decoder_uses_the_object_that_it_is_given) {
  backend_type backend;
  const auto config = tiny_config();
  auto usual = make_tiny(backend, config);
  esft::decoder<backend_type, scaled_router> same(backend, config, {esft::softmax_topk_router(config.active), 1});
  esft::decoder<backend_type, scaled_router> other(backend, config, {esft::softmax_topk_router(config.active, false, 3.0), 2});
  randomise(backend, same.parameters, 1);
  randomise(backend, other.parameters, 1);
  const double loss = usual.evaluate(backend, tiny_batch()).loss;
  EXPECT_EQ(same.evaluate(backend, tiny_batch()).loss, loss);
  EXPECT_NE(other.evaluate(backend, tiny_batch()).loss, loss);
}

TEST(own_router, another_number_of_experts_than_the_configuration_is_refused) {
  backend_type backend;
  const auto config = tiny_config();
  using model = esft::decoder<backend_type, scaled_router>;
  EXPECT_NO_THROW(model(backend, config, {esft::softmax_topk_router(config.active), 1}));
  EXPECT_THROW(model(backend, config, {esft::softmax_topk_router(config.active + 1), 1}), esft::contract_violation);
  EXPECT_THROW(esft::softmax_topk_router(2, true, 0.0), esft::contract_violation);
}

TEST(own_router, a_checkpoint_loads_with_it) {
  backend_type backend;
  const auto directory = esft::model_directory::open(golden_path("mixtral"));
  const auto usual = esft::load_decoder(backend, directory);
  const auto& config = usual.config;
  esft::unread_tensors unread{{"overwritten"}, {}, {}};
  const esft::decoder<backend_type, scaled_router> same =
      esft::load_decoder(backend, directory, scaled_router{esft::softmax_topk_router(config.active, true), 1}, &unread);
  const auto other = esft::load_decoder(backend, directory, scaled_router{esft::softmax_topk_router(config.active, true, 3.0), 2});
  EXPECT_TRUE(unread.sentences().empty());
  const double loss = usual.evaluate(backend, tiny_batch()).loss;
  EXPECT_EQ(same.evaluate(backend, tiny_batch()).loss, loss);
  EXPECT_NE(other.evaluate(backend, tiny_batch()).loss, loss);
  EXPECT_THROW(
      static_cast<void>(esft::load_decoder(backend, directory, scaled_router{esft::softmax_topk_router(config.active + 1), 1})),
      esft::contract_violation);
}

}  // namespace own_router_tests
}  // namespace esft_test
