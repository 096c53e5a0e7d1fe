// SPDX-License-Identifier: Apache-2.0
// What only a GPU offers `esft train`: the ways of its grouped products, and steps recorded once and run again.
#include "end_to_end/workspace.hpp"

#include <esft/io/adapter.hpp>

namespace end_to_end_recording_tests {

using end_to_end::content;

class recording : public end_to_end::workspace {
 protected:
  void SetUp() override {
    if (end_to_end::chosen_backend() != "cuda") GTEST_SKIP() << "SKIP: ESFT_TEST_BACKEND is not cuda";
    workspace::SetUp();
    write_experts("experts.json", {{1, {0, 3}}, {2, {1}}});
  }
  /// The bytes of the adapter that a run of six steps writes.
  [[nodiscard]] std::string trained(const std::string& out, const std::vector<std::string>& more) const {
    static_cast<void>(succeed(train(out, "6", more)));
    static_cast<void>(succeed({"verify", "model", out}));
    const auto adapter = esft::read_adapter(at(out + "/adapter"));
    EXPECT_EQ(adapter.names(), adapter.manifest().planned);
    return content(at(out + "/adapter/adapter.safetensors"));
  }
};

TEST_F(recording, a_recorded_run_writes_the_bytes_of_one_that_is_not) {
  const std::string plain = trained("plain", {"--grouped", "device"});
  EXPECT_NE(plain, "");
  EXPECT_TRUE(plain == trained("recorded", {"--grouped", "device", "--record"}));
  EXPECT_TRUE(plain == trained("default", {"--record"}));
  EXPECT_FALSE(plain == trained("other", {"--grouped", "device", "--seed", "7"})) << "the comparison must be able to fail";
}

TEST_F(recording, a_recorded_run_goes_on_where_it_was_cut) {
  const std::string whole = trained("whole", {"--record"});
  static_cast<void>(succeed(train("parts", "3", {"--record"})));
  EXPECT_TRUE(whole == trained("parts", {"--record", "--resume"}));
}

TEST_F(recording, every_way_of_the_grouped_products_trains_what_was_planned) {
  for (const char* way : {"streams", "batched", "device"}) {
    const std::string once = trained(std::string(way) + "_1", {"--grouped", way});
    EXPECT_TRUE(once == trained(std::string(way) + "_2", {"--grouped", way})) << way;
  }
}

}  // namespace end_to_end_recording_tests
