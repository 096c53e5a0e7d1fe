// SPDX-License-Identifier: Apache-2.0
// Every umbrella in one unit: no two headers may give a name two meanings.
#include <esft/analysis.hpp>
#include <esft/esft.hpp>
#include <esft/io.hpp>

#include <gtest/gtest.h>

TEST(every_header, lives_beside_every_other) {
  EXPECT_EQ(esft::expert_matrix("mlp.", 3, "up_proj"), "mlp.experts.3.up_proj");
  EXPECT_EQ(esft::expert_pair_matrix(3).values.size(), 9U);
}
