// SPDX-License-Identifier: Apache-2.0
// The instance that a program gives is the one in which everything runs and for which everything waits, and no other; how many threads it
// has does not show in the bits.
#include "../backends/ops.hpp"

#include <esft/backends/kokkos.hpp>

#include <atomic>
#include <bit>
#include <chrono>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace esft::test {
namespace {

using execution = Kokkos::DefaultExecutionSpace;

#if KOKKOS_VERSION >= 40200 && !defined(KOKKOS_ENABLE_THREADS) && !defined(KOKKOS_ENABLE_CUDA) && !defined(KOKKOS_ENABLE_HIP) && \
    !defined(KOKKOS_ENABLE_SYCL)
std::vector<execution> two_instances() {
  const execution all;
#if defined(KOKKOS_ENABLE_OPENMP)
  if (all.concurrency() < 2) return {};
#endif
  return Kokkos::Experimental::partition_space(all, std::vector<int>{1, 1});
}
#define ESFT_NEEDS_TWO(instances) \
  if ((instances).empty()) GTEST_SKIP() << execution::name() << " has one thread: it cannot be shared out"

/// Keeps an instance busy with a kernel that runs until this goes, or until half a minute is over: then somebody waited for it.
class busy {
 public:
  explicit busy(const execution& instance) : thread_([this, instance] { run(instance); }) {
    while (!started_) std::this_thread::yield();
  }
  busy(const busy&) = delete;
  busy& operator=(const busy&) = delete;
  ~busy() { end(); }
  void end() {
    released_ = true;
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] bool gave_up() const { return gave_up_; }

 private:
  struct wait {
    busy* of;
    void operator()(int) const {
      of->started_ = true;
      for (int i = 0; i < 30000 && !of->released_; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (!of->released_) of->gave_up_ = true;
    }
  };
  void run(const execution& instance) { Kokkos::parallel_for("busy", Kokkos::RangePolicy<execution>(instance, 0, 1), wait{this}); }

  std::atomic<bool> started_{false}, released_{false}, gave_up_{false};
  std::thread thread_;
};

/// What every op gives on a backend, and what the list of pieces does to a weight.
template <class Backend>
std::vector<std::vector<double>> everything(Backend& backend) {
  std::vector<std::vector<double>> all;
  for_each_op([&](const std::string&, rule, auto make, auto run) {
    generator g(5);
    const inputs in = rounded<Backend>(make(sizes{70, 9, 67}, g));
    for (const output& out : run(lab(backend, in))) all.push_back(out.values);
  });
  auto weight = backend.template make_tensor<value_t<Backend>>(extents<1>{9000});
  auto state = backend.template make_tensor<accum_t<Backend>>(extents<2>{4, 9000});
  backend.fill(weight.view(), value_t<Backend>(1));
  backend.fill(state.view(), 0.5F);
  const auto row = [&](index i) { return state.view().reshape(extents<1>{4 * 9000}).slice(i * 9000, (i + 1) * 9000); };
  const std::vector<update_slice<Backend>> slices{{weight.view(), row(0), true}};
  const auto list = backend.make_update_list(slices);
  all.push_back({backend.sum_of_squares(list)});
  backend.adamw(list, row(1), row(2), row(3), {.learning_rate = 0.1, .step = 1});
  backend.clear_gradients(list);
  all.push_back({backend.sum_of_squares(list)});
  std::vector<double> after(9000);
  backend.copy_out(std::as_const(weight).view(), std::span<double>(after));
  all.push_back(after);
  backend.for_each(1, detail::kokkos::fill_element<value_t<Backend>>{weight.data(), value_t<Backend>(3)});
  backend.synchronise();
  return all;
}

TEST(kokkos_instances, everything_runs_in_the_one_given_while_others_are_busy) {
  const auto instances = two_instances();
  ESFT_NEEDS_TWO(instances);
  kokkos_backend<> elsewhere;
  const auto wanted = everything(elsewhere);
  kokkos_backend<> backend(instances[0]);
  static_cast<void>(everything(backend));  // its scratch memory grows: Kokkos waits for all instances when it frees memory
  busy usual{execution()};
  busy other(instances[1]);
  const auto got = everything(backend);
  EXPECT_FALSE(usual.gave_up()) << "something ran in the default instance, or waited for it";
  EXPECT_FALSE(other.gave_up()) << "something ran in another instance, or waited for it";
  ASSERT_EQ(got.size(), wanted.size());
  EXPECT_GT(got.size(), 20U);
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].size(), wanted[i].size());
    for (std::size_t j = 0; j < got[i].size(); ++j) {
      ASSERT_EQ(std::bit_cast<std::uint64_t>(got[i][j]), std::bit_cast<std::uint64_t>(wanted[i][j])) << "output " << i << ", element " << j;
    }
  }
}

TEST(kokkos_instances, work_and_waits_come_after_what_is_queued_in_the_one_given) {
  const auto instances = two_instances();
  ESFT_NEEDS_TWO(instances);
  kokkos_backend<> backend(instances[0]);
  auto x = backend.make_tensor<float>(extents<1>{100});
  const auto comes_after = [&](auto work) {
    busy mine(instances[0]);
    std::atomic<bool> done{false};
    std::thread worker([&] {
      work();
      done = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_FALSE(done) << "it did not wait";
    mine.end();
    worker.join();
    EXPECT_TRUE(done);
    EXPECT_FALSE(mine.gave_up());
  };
  comes_after([&] { backend.synchronise(); });
  comes_after([&] { backend.fill(x.view(), 2.0F); });
  comes_after([&] {
    std::vector<float> out(100);
    backend.copy_out(std::as_const(x).view(), std::span<float>(out));
  });
  comes_after([&] { static_cast<void>(backend.sum_of_squares(std::as_const(x).view())); });
}

#else
// Threads has one instance, and so has Serial in old versions; a kernel on a device cannot wait for the host as the one above does.
TEST(kokkos_instances, everything_runs_in_the_one_given_while_others_are_busy) {
  GTEST_SKIP() << "this Kokkos has one instance of " << execution::name() << ", or its kernels cannot wait for the host";
}
#endif

}  // namespace
}  // namespace esft::test
