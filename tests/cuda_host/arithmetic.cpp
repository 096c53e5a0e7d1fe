// SPDX-License-Identifier: Apache-2.0
// Device arithmetic as plain functions: the router's order, tiles of grouped products, blocks of trained pieces, online softmax.
#include <esft/backends/cuda/kernels/grouped.hpp>
#include <esft/backends/cuda/kernels/update.hpp>
#include <esft/backends/cuda/online_softmax.hpp>
#include <esft/backends/cuda/schedule.hpp>
#include <esft/backends/cuda/slice_entry.hpp>
#include <esft/backends/cuda/topk.hpp>
#include <esft/core/rng.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace esft::detail::cuda {
namespace {

/// The rule of `softmax_topk_router`: a is preferred to b.
bool preferred(float za, std::int32_t a, float zb, std::int32_t b) {
  if (za != za || zb != zb) return za == za || (zb != zb && a < b);
  return za > zb || (za == zb && a < b);
}

TEST(cuda_topk, keys_order_every_pair_of_bit_patterns_as_the_router_does) {
  const counter_rng rng(3, rng_stream::test);
  std::vector<float> z{0.0F, -0.0F, 1.0F, -1.0F, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::lowest()};
  for (std::uint64_t i = 0; i < 400; ++i) z.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(rng.below(i, 1ULL << 32U))));
  for (std::size_t a = 0; a < z.size(); ++a) {
    for (std::size_t b = 0; b < z.size(); ++b) {
      const auto ia = static_cast<std::int32_t>(a);
      const auto ib = static_cast<std::int32_t>(b);
      ASSERT_EQ(preference(z[a], ia) > preference(z[b], ib), preferred(z[a], ia, z[b], ib)) << z[a] << " against " << z[b];
    }
    ASSERT_EQ(preferred_id(preference(z[a], static_cast<std::int32_t>(a))), static_cast<std::int32_t>(a));
    ASSERT_GT(preference(z[a], 1023), 0U);
  }
}

TEST(cuda_update, is_decided_by_the_numbers_of_the_step) {
  const auto decide = [](double loss, double squares, double clip, bool fault, double updates) {
    double numbers[step_numbers::count] = {0.5, 0.125, loss, squares, updates};
    const adamw_decision decision = decide_update(numbers, 0.9, 0.95, clip, fault);
    EXPECT_EQ(numbers[step_numbers::updates], decision.update ? updates + 1 : updates);
    return decision;
  };
  const adamw_decision usual = decide(3, 16, 1, false, 1);
  EXPECT_TRUE(usual.update);
  EXPECT_EQ(usual.rate, 0.125F);
  EXPECT_EQ(usual.gradient_scale, 0.25F);
  EXPECT_FLOAT_EQ(usual.correction1, 1 - 0.81F);
  EXPECT_FLOAT_EQ(usual.correction2, 1 - 0.9025F);
  EXPECT_EQ(decide(3, 16, 4, false, 0).gradient_scale, 1.0F);  // not above the norm
  EXPECT_EQ(decide(3, 16, 0, false, 0).gradient_scale, 1.0F);  // no clipping
  EXPECT_TRUE(decide(0, 0, 1, false, 0).update);
  const double inf = std::numeric_limits<double>::infinity();
  for (const double bad : {inf, -inf, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_FALSE(decide(bad, 16, 1, false, 7).update);
    EXPECT_FALSE(decide(3, bad, 1, false, 7).update);
  }
  EXPECT_FALSE(decide(3, 16, 1, true, 7).update);
}

TEST(cuda_schedule, tiles_cover_every_row_once_and_fit_the_bound) {
  const counter_rng rng(5, rng_stream::test);
  std::uint64_t at = 0;
  for (const std::int32_t experts : {1, 2, 7, 64, 1024}) {
    for (const std::int32_t tile_rows : {1, 16, 128}) {
      for (int repeat = 0; repeat < (experts > 64 ? 2 : 20); ++repeat) {
        std::vector<std::int32_t> offsets{0};
        for (std::int32_t e = 0; e < experts; ++e) {
          const bool empty = rng.below(at++, 3) == 0;
          offsets.push_back(offsets.back() + (empty ? 0 : static_cast<std::int32_t>(rng.below(at++, 300))));
        }
        std::vector<std::int32_t> first(offsets.size());
        auto count = [&] { count_tiles_kernel<std::int32_t>(offsets.data(), experts, tile_rows, first.data()); };
        emulator::machine::instance().order.warps_run_ahead = repeat % 2 == 1;
        emulator::machine::instance().run(1, scan_threads, 0, count);
        ASSERT_EQ(first.front(), 0);
        for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
          ASSERT_EQ(first[e + 1] - first[e], tiles_of(offsets[e + 1] - offsets[e], tile_rows)) << "expert " << e;
        }
        ASSERT_LE(first.back(), most_tiles(offsets.back(), experts, tile_rows));
        std::int32_t next = 0;
        for (std::int32_t t = 0; t < first.back(); ++t) {
          const row_tile tile = find_tile(offsets.data(), first.data(), experts, tile_rows, t);
          ASSERT_EQ(tile.first, next);
          ASSERT_GT(tile.end, tile.first);
          ASSERT_LE(tile.end - tile.first, tile_rows);
          ASSERT_LE(offsets[static_cast<std::size_t>(tile.expert)], tile.first);
          ASSERT_LE(tile.end, offsets[static_cast<std::size_t>(tile.expert) + 1]);
          next = tile.end;
        }
        ASSERT_EQ(next, offsets.back());
        EXPECT_EQ(find_tile(offsets.data(), first.data(), experts, tile_rows, first.back()).expert, -1);
      }
    }
  }
  emulator::machine::instance().order = {};
}

// Two warps, a barrier of each between writing and reading what the other wrote, where one of the block is needed.
TEST(cuda_emulator, warps_that_run_ahead_show_a_missing_barrier_of_the_block) {
  emulator::machine& machine = emulator::machine::instance();
  std::vector<float> seen(2 * warp_size);
  const auto wrong = [&](bool of_the_block) {
    auto swap_halves = [&] {
      float* shared = shared_floats();
      shared[thread_index()] = static_cast<float>(thread_index());
      sync_warp();
      if (of_the_block) sync_block();
      seen[static_cast<std::size_t>(thread_index())] = shared[(thread_index() + warp_size) % (2 * warp_size)];
    };
    machine.run(1, 2 * warp_size, seen.size() * sizeof(float), swap_halves);
    int count = 0;
    for (int t = 0; t < 2 * warp_size; ++t) {
      if (seen[static_cast<std::size_t>(t)] != static_cast<float>((t + warp_size) % (2 * warp_size))) ++count;
    }
    return count;
  };
  EXPECT_EQ(wrong(false), 0);  // all to their next wait: hidden
  for (const bool reversed : {false, true}) {
    machine.order = {.reversed = reversed, .warps_run_ahead = true};
    EXPECT_EQ(wrong(false), warp_size);
    EXPECT_EQ(wrong(true), 0);
  }
  machine.order = {};
}

TEST(cuda_online_softmax, parts_merge_to_the_sum_over_all) {
  const counter_rng rng(9, rng_stream::test);
  std::vector<float> scores;
  for (std::uint64_t i = 0; i < 300; ++i) scores.push_back(static_cast<float>(20 * rng.normal(i)));
  scores[0] = scores[17] = -std::numeric_limits<float>::infinity();
  const double peak = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (const float s : scores) total += std::exp(static_cast<double>(s) - peak);
  for (const std::size_t part : {1U, 7U, 100U, 300U}) {
    online_softmax all;
    for (std::size_t begin = 0; begin < scores.size(); begin += part) {
      online_softmax one;
      for (std::size_t i = begin; i < std::min(begin + part, scores.size()); ++i) one.add(scores[i]);
      all.merge(one);
    }
    EXPECT_EQ(all.peak, static_cast<float>(peak));
    EXPECT_NEAR(all.total, total, 1e-5 * total);
    EXPECT_NEAR(all.log_sum(), peak + std::log(total), 1e-5 * std::abs(peak));
  }
}

TEST(cuda_slices, every_block_finds_the_piece_that_it_is_of) {
  const std::vector<index> blocks{0, 3, 0, 0, 1, 2, 0};
  std::vector<slice_entry<float>> list;
  std::vector<index> owner;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    list.push_back({nullptr, nullptr, 0, 0, static_cast<index>(owner.size()), true});
    owner.insert(owner.end(), static_cast<std::size_t>(blocks[i]), static_cast<index>(i));
  }
  for (std::size_t b = 0; b < owner.size(); ++b) {
    EXPECT_EQ(find_slice(list.data(), static_cast<index>(list.size()), static_cast<index>(b)), owner[b]) << "block " << b;
  }
}

TEST(cuda_online_softmax, a_nan_shows_and_minus_infinity_weighs_nothing) {
  online_softmax nothing;
  nothing.add(-std::numeric_limits<float>::infinity());
  nothing.merge(online_softmax{});
  EXPECT_EQ(nothing.total, 0);
  nothing.add(2);
  EXPECT_EQ(nothing.log_sum(), 2);
  online_softmax bad;
  bad.add(std::numeric_limits<float>::quiet_NaN());
  bad.add(1);
  EXPECT_TRUE(std::isnan(bad.total));
  nothing.merge(bad);
  EXPECT_TRUE(std::isnan(nothing.log_sum()));
}

}  // namespace
}  // namespace esft::detail::cuda
