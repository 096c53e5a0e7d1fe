// SPDX-License-Identifier: Apache-2.0
// Differences of models, the undo of a merge bit for bit, and several adapters as one.
#include "io/io_test.hpp"
#include "io/small_tensors.hpp"

#include <esft/io/compose_adapters.hpp>
#include <esft/io/receipt.hpp>
#include <esft/io/tensor_diff.hpp>
#include <esft/io/unmerge.hpp>

#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace io_adapter_algebra_tests {

namespace fs = std::filesystem;
using esft::input_error_code;
using esft::overlap_rule;
using esft::test::expect_input_error;
using esft::test::named;
using esft::test::scratch_directory;
using esft::test::slurp;
using esft::test::spill;
using esft::test::write_tensors;

std::string down(int expert) { return "model.layers.1.mlp.experts." + std::to_string(expert) + ".down_proj.weight"; }
std::string factor(int expert, char which) {
  return "model.layers.1.mlp.experts." + std::to_string(expert) + ".down_proj.lora_" + which + ".weight";
}

class algebra : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<named> tensors{{"lm_head.weight", {2, 2}, {9, 8, 7, 6}}};
    for (int e = 0; e < 3; ++e) tensors.push_back({down(e), {2, 2}, {1, 2, 3, static_cast<float>(e)}});
    write_model(base, tensors);
    digest = esft::model_directory::open(base).digest();
  }

  static void write_model(const fs::path& folder, const std::vector<named>& tensors, esft::dtype type = esft::dtype::bfloat16) {
    fs::create_directories(folder);
    write_tensors(folder / "model.safetensors", tensors, type);
    spill(folder / "config.json", "{}");
  }
  /// An adapter of ours in `folder`; factors get alpha 2.
  esft::adapter make(const std::string& folder, const std::vector<named>& tensors, double alpha = 2) {
    esft::adapter_manifest manifest;
    manifest.method = "esft";
    manifest.base_digest = digest;
    for (const named& t : tensors) {
      manifest.planned.push_back(t.name);
      if (esft::is_factor_name(t.name)) manifest.low_rank = esft::low_rank_options{.rank = 1, .alpha = alpha};
      if (const auto place = esft::split_expert_stem(t.name)) {
        auto& list = manifest.experts.experts.layers[esft::layer_index{1}];
        const esft::expert_index expert{static_cast<std::int32_t>(place->expert)};
        if (list.empty() || list.back() != expert) list.push_back(expert);
      }
    }
    std::vector<std::vector<std::byte>> bytes;
    std::vector<esft::tensor_source> sources;
    for (const named& t : tensors) bytes.push_back(esft::stored_bytes(t.values, esft::dtype::bfloat16));
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      sources.push_back(esft::memory_source(tensors[i].name, esft::dtype::bfloat16, tensors[i].shape, bytes[i]));
    }
    esft::write_adapter(scratch / folder, manifest, sources);
    return esft::read_adapter(scratch / folder);
  }
  static std::vector<float> values(const esft::adapter& from, const std::string& name) { return esft::read_factor(from, name).values; }

  scratch_directory scratch;
  fs::path base = scratch / "base";
  std::string digest;
};

TEST_F(algebra, a_difference_names_tensors_slices_and_the_largest_distance) {
  const float infinite = std::numeric_limits<float>::infinity();
  write_model(
      scratch / "a",
      {{"equal", {2}, {1, 2}}, {"experts", {3, 1, 2}, {1, 2, 3, 4, 5, 6}}, {"gone", {1}, {1}}, {"wide", {2}, {1, 2}}, {"zero", {1}, {0}}});
  write_model(scratch / "b", {{"equal", {2}, {1, 2}},
                              {"experts", {3, 1, 2}, {1, 2, 3, 4.5F, 5, 4}},
                              {"new", {1}, {1}},
                              {"wide", {1, 2}, {1, 2}},
                              {"zero", {1}, {-0.0F}}});
  const auto found = esft::compare_tensors(esft::tensor_files(scratch / "a"), esft::tensor_files(scratch / "b"));
  EXPECT_FALSE(found.same());
  EXPECT_EQ(found.equal, 1U);
  EXPECT_EQ(found.equal_bytes, 4U);
  ASSERT_EQ(found.different.size(), 2U);
  EXPECT_EQ(found.different[0].name, "experts");
  EXPECT_EQ(found.different[0].elements, 2U);
  EXPECT_EQ(found.different[0].bytes, 4U);
  EXPECT_EQ(found.different[0].largest, 2);
  EXPECT_EQ(found.different[0].slices, (std::vector<esft::index>{1, 2}));
  EXPECT_EQ(found.different[1].name, "zero") << "bits decide: -0 is not 0";
  EXPECT_EQ(found.different[1].largest, 0);
  EXPECT_EQ(found.only_a, std::vector<std::string>{"gone"});
  EXPECT_EQ(found.only_b, std::vector<std::string>{"new"});
  EXPECT_EQ(found.other_shape, std::vector<std::string>{"wide"});
  EXPECT_TRUE(esft::compare_tensors(esft::tensor_files(scratch / "a"), esft::tensor_files(scratch / "a" / "model.safetensors")).same());

  write_model(scratch / "c",
              {{"equal", {2}, {1, 2}},
               {"experts", {3, 1, 2}, {1, 2, infinite, 4, 5, 6}},
               {"gone", {1}, {1}},
               {"wide", {2}, {1, 2}},
               {"zero", {1}, {0}}},
              esft::dtype::float32);
  const auto types = esft::compare_tensors(esft::tensor_files(scratch / "a"), esft::tensor_files(scratch / "c"));
  EXPECT_EQ(types.different.size(), 5U) << "another element type is a difference";
  EXPECT_EQ(types.different[0].elements, 0U) << "of equal values";
  EXPECT_EQ(types.different[1].largest, std::numeric_limits<double>::infinity());
  EXPECT_EQ(types.different[1].slices, (std::vector<esft::index>{1}));
}

TEST_F(algebra, an_adapter_is_compared_by_the_names_of_the_base) {
  static_cast<void>(make("ours", {{down(1), {2, 2}, {1, 2, 3, 5}}}));
  const auto found = esft::compare_tensors(esft::tensor_files(base), esft::tensor_files(scratch / "ours"));
  ASSERT_EQ(found.different.size(), 1U);
  EXPECT_EQ(found.different[0].name, down(1));
  EXPECT_EQ(found.different[0].largest, 4);
  EXPECT_EQ(found.only_a.size(), 3U);
}

TEST_F(algebra, a_merge_that_kept_what_it_replaced_is_undone_bit_for_bit) {
  static_cast<void>(make("ours", {{down(1), {2, 2}, {4, 4, 4, 4}}, {factor(2, 'A'), {1, 2}, {1, 1}}, {factor(2, 'B'), {2, 1}, {1, 0.5F}}}));
  esft::merge_adapter(base, scratch / "ours", scratch / "merged", esft::keep_replaced::yes);
  EXPECT_TRUE(esft::verify_adapter(base, scratch / "ours", scratch / "merged").ok()) << "the kept tensors are no part of the model";
  const auto before = esft::compare_tensors(esft::tensor_files(base), esft::tensor_files(scratch / "merged"));
  EXPECT_EQ(before.different.size(), 2U);
  const esft::unmerged result = esft::unmerge(scratch / "merged", scratch / "back");
  EXPECT_EQ(result.restored, 2U);
  EXPECT_EQ(result.base_digest, digest);
  EXPECT_EQ(slurp(scratch / "back/model.safetensors"), slurp(base / "model.safetensors"));
  EXPECT_EQ(slurp(scratch / "back/config.json"), "{}");
  EXPECT_FALSE(fs::exists(scratch / "back" / esft::replaced_tensors_name));
}

TEST_F(algebra, an_undo_that_would_not_give_the_base_is_refused) {
  static_cast<void>(make("ours", {{down(1), {2, 2}, {4, 4, 4, 4}}}));
  esft::merge_adapter(base, scratch / "ours", scratch / "plain");
  expect_input_error(
      input_error_code::nothing_to_load, [&] { static_cast<void>(esft::unmerge(scratch / "plain", scratch / "back")); },
      "keep_replaced::yes");
  esft::merge_adapter(base, scratch / "ours", scratch / "merged", esft::keep_replaced::yes);
  const std::string good = slurp(scratch / "merged/model.safetensors");
  std::string moved = good;
  const auto head = esft::safetensors_file::open(scratch / "merged/model.safetensors");
  moved[static_cast<std::size_t>(head.data_offset() + head.at("lm_head.weight").begin)] ^= 1;
  spill(scratch / "merged/model.safetensors", moved);
  expect_input_error(
      input_error_code::digest_mismatch, [&] { static_cast<void>(esft::unmerge(scratch / "merged", scratch / "back")); },
      "changed after the merge");
  spill(scratch / "merged/model.safetensors", good);
  std::string kept = slurp(scratch / "merged" / esft::replaced_tensors_name);
  kept.back() ^= 1;
  spill(scratch / "merged" / esft::replaced_tensors_name, kept);
  expect_input_error(
      input_error_code::digest_mismatch, [&] { static_cast<void>(esft::unmerge(scratch / "merged", scratch / "back")); }, "esft_replaced");
  EXPECT_FALSE(fs::exists(scratch / "back"));
}

TEST_F(algebra, adapters_of_different_experts_become_one) {
  std::vector<esft::adapter> parts;
  parts.push_back(make("a", {{down(2), {2, 2}, {1, 1, 1, 1}}}));
  parts.push_back(make("b", {{down(0), {2, 2}, {2, 2, 2, 2}}, {factor(1, 'A'), {1, 2}, {1, 2}}, {factor(1, 'B'), {2, 1}, {3, 4}}}));
  const esft::composition result = esft::compose_adapters(parts, scratch / "both");
  EXPECT_EQ(result.tensors, 4U);
  EXPECT_TRUE(result.overlaps.empty());
  const esft::adapter both = esft::read_adapter(scratch / "both");
  EXPECT_EQ(values(both, down(2)), (std::vector<float>{1, 1, 1, 1}));
  EXPECT_EQ(values(both, factor(1, 'B')), (std::vector<float>{3, 4}));
  EXPECT_EQ(both.manifest().base_digest, digest);
  EXPECT_EQ(both.manifest().low_rank->alpha, 2);
  EXPECT_EQ(both.manifest().experts.experts.layers.at(esft::layer_index{1}),
            (std::vector{esft::expert_index{2}, esft::expert_index{0}, esft::expert_index{1}}));
  EXPECT_TRUE(esft::verify_adapter(base, scratch / "both").ok());
  esft::merge_adapter(base, scratch / "both", scratch / "merged");
  esft::merge_adapter(base, scratch / "a", scratch / "merged_a");
  const auto step = esft::compare_tensors(esft::tensor_files(scratch / "merged_a"), esft::tensor_files(scratch / "merged"));
  EXPECT_EQ(step.different.size(), 2U) << "what b changes: expert 0, and expert 1 through its factors";
}

TEST_F(algebra, overlaps_are_errors_that_name_the_experts_unless_a_rule_decides) {
  std::vector<esft::adapter> parts;
  parts.push_back(make("a", {{down(0), {2, 2}, {1, 2, 3, 4}}, {down(1), {2, 2}, {0, 0, 0, 0}}}));
  parts.push_back(make("b", {{down(1), {2, 2}, {1, 2, 3, 5}}, {down(2), {2, 2}, {7, 7, 7, 7}}}));
  try {
    static_cast<void>(esft::compose_adapters(parts, scratch / "none"));
    ADD_FAILURE() << "an overlap passed";
  } catch (const esft::usage_error& problem) {
    EXPECT_NE(std::string(problem.what()).find("model.layers.1.mlp.experts.1;"), std::string::npos) << problem.what();
  }
  EXPECT_FALSE(fs::exists(scratch / "none"));
  const std::map<overlap_rule, std::vector<float>> wanted{
      {overlap_rule::first, {0, 0, 0, 0}}, {overlap_rule::last, {1, 2, 3, 5}}, {overlap_rule::mean, {0.5F, 1, 1.5F, 2.5F}}};
  for (const auto& [rule, expected] : wanted) {
    const auto result = esft::compose_adapters(parts, scratch / "some", rule);
    EXPECT_EQ(result.overlaps, std::vector<std::string>{"model.layers.1.mlp.experts.1"});
    EXPECT_EQ(result.tensors, 3U);
    const auto read = esft::read_adapter(scratch / "some");
    EXPECT_EQ(values(read, down(1)), expected);
    EXPECT_EQ(values(read, down(2)), (std::vector<float>{7, 7, 7, 7}));
    EXPECT_NO_THROW(read.verify_digests());
  }
}

TEST_F(algebra, what_does_not_go_together_is_refused) {
  const auto refused = [&](const std::vector<esft::adapter>& parts, overlap_rule rule, const std::string& mentioned) {
    try {
      static_cast<void>(esft::compose_adapters(parts, scratch / "none", rule));
      ADD_FAILURE() << "accepted: " << mentioned;
    } catch (const esft::usage_error& problem) {
      EXPECT_NE(std::string(problem.what()).find(mentioned), std::string::npos) << problem.what();
    }
    EXPECT_FALSE(fs::exists(scratch / "none"));
  };
  const std::vector<named> pair{{factor(1, 'A'), {1, 2}, {1, 2}}, {factor(1, 'B'), {2, 1}, {3, 4}}};
  const std::vector<named> other{{factor(0, 'A'), {1, 2}, {1, 2}}, {factor(0, 'B'), {2, 1}, {3, 4}}};
  const std::vector<named> wide{{factor(2, 'A'), {2, 2}, {1, 2, 3, 4}}, {factor(2, 'B'), {2, 2}, {3, 4, 5, 6}}};
  const auto both = [](esft::adapter a, esft::adapter b) {
    std::vector<esft::adapter> parts;
    parts.push_back(std::move(a));
    parts.push_back(std::move(b));
    return parts;
  };
  refused(both(make("a", pair), make("b", pair)), overlap_rule::mean, "has no mean");
  refused(both(make("a", pair), make("b", {{down(1), {2, 2}, {1, 2, 3, 4}}})), overlap_rule::error, "experts.1");
  refused(both(make("a", pair), make("b", other, 3)), overlap_rule::error, "scales its factors otherwise");
  refused(both(make("a", pair), make("b", wide)), overlap_rule::error, "share one rank");
  std::vector<esft::adapter> alone;
  alone.push_back(make("a", pair));
  refused(alone, overlap_rule::error, "at least two");
  const std::string known = digest;
  auto a = make("a", pair);
  digest = std::string(64, '0');
  refused(both(std::move(a), make("b", other)), overlap_rule::error, "another base");
  digest = known;

  for (const char* official : {"c", "d"}) {
    static_cast<void>(make(official, {{down(official[0] - 'c'), {2, 2}, {5, 5, 5, 5}}}));
    fs::remove(scratch / official / "esft.json");
  }
  const auto parts = both(esft::read_adapter(scratch / "c"), esft::read_adapter(scratch / "d"));
  refused(parts, overlap_rule::error, "give the base as well");
  const auto opened = esft::model_directory::open(base);
  static_cast<void>(esft::compose_adapters(parts, scratch / "bound", overlap_rule::error, &opened));
  EXPECT_TRUE(esft::verify_adapter(base, scratch / "bound").ok());
}

}  // namespace io_adapter_algebra_tests
