// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `gpu` without a GPU: host memory, kernels in the emulator, plain matrix products. Chosen by compilers that are not nvcc; for tests.

#include <esft/backends/cuda/device.hpp>
#include <esft/backends/cuda/product.hpp>
#include <esft/core/contract.hpp>
#include <esft/core/error.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace esft::detail::cuda {

class gpu {
 public:
  static constexpr bool emulated = true;
  static constexpr int lanes = 4;
  static constexpr std::size_t reading_numbers = 33;
  static int count() noexcept { return 1; }
  static std::string describe(int) { return "emulated on the host"; }

  gpu(int /*ordinal*/, bool /*deterministic*/) {}
  [[nodiscard]] int ordinal() const noexcept { return 0; }
  [[nodiscard]] std::size_t shared_limit() const noexcept { return shared_room; }
  std::int64_t free_memory() { return std::int64_t{1} << 30; }
  /// Null where there is no room.
  void* allocate(std::size_t bytes) {
    if (taken + idle + bytes > room) return nullptr;
    taken += bytes;
    void* data = ::operator new(bytes, std::align_val_t{256});
    std::memset(data, 0xff, bytes);  // NaN: what an op must not read
    return data;
  }
  [[noreturn]] static void refuse(const std::string& what) { throw device_error("cuda: " + what + " failed: out of memory"); }
  /// The pool keeps it, as that of a device does.
  void release(void* data, std::size_t bytes) noexcept {
    taken -= bytes;
    idle += bytes;
    if (recording_) {
      recording_->given_back.push_back(data);  // what is recorded will write here again
    } else {
      give_back(data);
    }
  }
  /// What was made in an abandoned recording: a device refuses to take it back.
  void release_dead(void* data) noexcept {
    ++dead_returned;
    give_back(data);
  }
  void trim() noexcept { idle = 0; }
  /// How often it waited for room: never.
  int upload(void* to, const void* from, std::size_t bytes) {
    std::memcpy(to, from, bytes);
    return 0;
  }
  /// What arrives is what lies there now, whatever is queued until it is read.
  void* begin_reading(const double* numbers, std::size_t count, const std::int32_t* faults) {
    return arrivals_.emplace_back(new arrival{{numbers, numbers + count}, *faults}).get();
  }
  std::vector<double> finish_reading(void* reading, std::int32_t& found) {
    const auto mine = std::find_if(arrivals_.begin(), arrivals_.end(), [&](const auto& a) { return a.get() == reading; });
    ESFT_EXPECTS(mine != arrivals_.end(), "a reading is finished once");
    const arrival came = std::move(**mine);
    arrivals_.erase(mine);
    found = came.found;
    return came.numbers;
  }
  void wait(const std::int32_t* faults, std::int32_t& found) { found = *faults; }
  void download(void* to, const void* from, std::size_t bytes, const std::int32_t* faults, std::int32_t& found) {
    std::memcpy(to, from, bytes);
    found = *faults;
  }
  void copy(void* to, const void* from, std::size_t bytes) {
    run([=] { std::memmove(to, from, bytes); });
  }
  void zero(void* to, std::size_t bytes) {
    run([=] { std::memset(to, 0, bytes); });
  }
  void synchronise() {}
  void start_clock() { started_ = std::chrono::steady_clock::now(); }
  double stop_clock() { return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count(); }
  void fork() {}
  void join() {}

  template <class... Parameters>
  void launch(const grid& shape, void (*kernel)(Parameters...), Parameters... arguments) {
    run([=] {
      auto body = [&] { kernel(arguments...); };
      emulator::machine::instance().run(shape.blocks, shape.threads, shape.shared_bytes, body);
    });
  }
  void multiply(const product& p, int /*lane*/) {
    run([=] { multiply_now(p); });
  }
  void multiply_together(std::span<const product> products, void* const* addresses) {
    for (std::size_t i = 0; i < products.size(); ++i) {
      product p = products[i];
      p.b = addresses[i];
      p.a = addresses[products.size() + i];
      p.c = addresses[2 * products.size() + i];
      ESFT_EXPECTS(aligned_for_batches(p), "operands of grouped batched products are aligned as cuBLAS asks");
      multiply(p, 0);
    }
  }

  /// Bytes of shared memory that it gives a block: no more than the smallest device. For tests.
  std::size_t shared_room = least_shared_bytes;
  /// Bytes: what it has, what tensors hold, what the pool keeps; and how many tensors of abandoned recordings came back. For tests.
  std::size_t room = std::numeric_limits<std::size_t>::max() / 2;
  std::size_t taken = 0;
  std::size_t idle = 0;
  int dead_returned = 0;

  void begin_recording() { recording_ = std::make_shared<recording>(); }
  [[nodiscard]] std::shared_ptr<void> end_recording() { return std::exchange(recording_, nullptr); }
  void abandon_recording() noexcept { recording_.reset(); }
  [[nodiscard]] bool replay(void* recorded) {
    for (const auto& work : static_cast<recording*>(recorded)->queued) work();
    return true;
  }

 private:
  struct arrival {
    std::vector<double> numbers;
    std::int32_t found;
  };
  struct recording {
    std::vector<std::function<void()>> queued;
    std::vector<void*> given_back;
    ~recording() {
      for (void* data : given_back) give_back(data);
    }
  };
  static void give_back(void* data) noexcept { ::operator delete(data, std::align_val_t{256}); }
  template <class Work>
  void run(const Work& work) {
    if (recording_) {
      recording_->queued.emplace_back(work);
    } else {
      work();
    }
  }
  static void multiply_now(const product& p) {
    for (index i = 0; i < p.m; ++i) {
      for (index j = 0; j < p.n; ++j) {
        const index at = i * p.n + j;
        float sum = p.accumulate ? read(p.c, p.output, at) : 0.0F;
        for (index l = 0; l < p.k; ++l) {
          sum += read(p.a, p.input, p.a_transposed ? l * p.m + i : i * p.k + l) *
                 read(p.b, p.input, p.b_transposed ? j * p.k + l : l * p.n + j);
        }
        if (p.output == dtype::bfloat16) {
          static_cast<bf16*>(p.c)[at] = bf16(sum);
        } else {
          static_cast<float*>(p.c)[at] = sum;
        }
      }
    }
  }
  static float read(const void* data, dtype type, index at) {
    return type == dtype::bfloat16 ? static_cast<float>(static_cast<const bf16*>(data)[at]) : static_cast<const float*>(data)[at];
  }

  std::shared_ptr<recording> recording_;
  std::chrono::steady_clock::time_point started_;
  std::vector<std::unique_ptr<arrival>> arrivals_;
};

}  // namespace esft::detail::cuda
