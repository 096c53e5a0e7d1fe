// SPDX-License-Identifier: Apache-2.0
// Which kernels a training step runs on: every product of a whole model is counted, so that one that falls back is seen.
#include "train/tiny_model.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/model/load.hpp>
#include <esft/peft/plan.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string_view>

#include <gtest/gtest.h>

namespace native_kernels_tests {

template <class T>
class native_kernels : public testing::Test {};
using storage_types = testing::Types<float, esft::bf16>;
TYPED_TEST_SUITE(native_kernels, storage_types);

/// Products of a step by the kernels that each family names.
struct counts {
  std::int64_t native = 0, plain = 0, others = 0;
};

/// Forward and backward of everything.
template <class T>
counts products_of_a_step(esft::eigen_backend<T>& backend, esft::decoder<esft::eigen_backend<T>>& model, const esft::token_batch& batch) {
  esft::apply(backend, model.parameters, tiny::everything(model));
  static_cast<void>(model.accumulate_gradients(backend, batch, {}));
  const std::string_view native = backend.isa() == "amx" ? "tiles" : backend.isa() == "avx512_bf16" ? "pairs" : "panels";
  counts result{backend.products(native), backend.products("plain"), 0};
  for (const std::string_view family : {"panels", "pairs", "tiles"}) {
    if (family != native) result.others += backend.products(family);
  }
  return result;
}

/// Matrices that a token meets: of attention, of the dense or the routed and the shared experts, and the head. Routers are not among them.
std::int64_t matrices(const esft::decoder_config& c) {
  std::int64_t count = 1;
  for (const bool moe : c.moe_layer) count += 4 + (moe ? 4 : 2);
  return count;
}
std::int64_t routers(const esft::decoder_config& c) { return std::count(c.moe_layer.begin(), c.moe_layer.end(), true); }

constexpr std::int64_t passes = 3;  // each matrix forward, for the gradient of its input and for its own

TYPED_TEST(native_kernels, serve_every_product_of_a_step_that_tiles_cover) {
  esft::eigen_backend<TypeParam> backend(1);
  esft::decoder<esft::eigen_backend<TypeParam>> model(backend, tiny::wide_config());
  esft::initialise(backend, model.parameters, model.config, 5);
  const counts found = products_of_a_step(backend, model, tiny::schedule().batch(0));
  EXPECT_EQ(found.native, passes * matrices(model.config));
  EXPECT_EQ(found.plain, passes * routers(model.config));  // 6 experts fill no tile
  EXPECT_EQ(found.others, 0);
}

TYPED_TEST(native_kernels, serve_the_bundled_model_but_for_its_head) {
  esft::eigen_backend<TypeParam> backend(1);
  const std::filesystem::path directory = ESFT_TEST_SOURCE_DIR "/examples/quickstart/model";
  auto model = esft::load_decoder(backend, esft::model_directory::open(directory));
  const counts found = products_of_a_step(backend, model, tiny::schedule().batch(0));
  EXPECT_EQ(found.native, passes * (matrices(model.config) - 1 + routers(model.config)));
  EXPECT_EQ(found.plain, passes);  // of the head, whose 264 rows no tile divides
  EXPECT_EQ(found.others, 0);
}

}  // namespace native_kernels_tests
