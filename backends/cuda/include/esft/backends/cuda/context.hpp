// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `context`: what a backend and its tensors share: the device, what is known of offsets on the host, counters, injected failures.

#include <esft/backends/cuda.hpp>
#include <esft/backends/cuda/device.hpp>
#include <esft/core/error.hpp>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#if defined(__CUDACC__)
#include <esft/backends/cuda/gpu.hpp>
#else
#include <esft/backends/cuda/emulated_gpu.hpp>
#endif

namespace esft::detail::cuda {

/// What a kernel found wrong with its input; of several one stays.
enum class fault : std::int32_t { none, token_id, label, expert_id };

struct context {
  explicit context(const cuda_options& how) : options(how), device(how.device, how.deterministic) {
    faults = static_cast<std::int32_t*>(device.allocate(sizeof(std::int32_t)));
    if (faults == nullptr) gpu::refuse("opening a backend");
    device.zero(faults, sizeof(std::int32_t));
  }
  ~context() { device.release(faults, sizeof(std::int32_t)); }
  context(const context&) = delete;
  context& operator=(const context&) = delete;

  void drop() noexcept {
    if (references.fetch_sub(1) == 1) delete this;
  }

  /// Where there is no room it waits, has idle memory of pools and of dropped recordings given back, and tries once more.
  [[nodiscard]] void* allocate(std::size_t bytes) {
    fail_if_due(cuda_operation::allocation, "allocation of " + std::to_string(bytes) + " bytes");
    const std::size_t size = bytes == 0 ? 1 : bytes;
    void* data = device.allocate(size);
    if (data == nullptr && !recording) {
      ++synchronisations;
      device.trim();
      data = device.allocate(size);
    }
    if (data == nullptr) gpu::refuse("allocation of " + std::to_string(size) + " bytes");
    sizes_[data] = size;
    if (recording) recorded_.insert(data);
    return data;
  }
  void release(void* data) noexcept {
    const std::size_t size = sizes_[data];
    forget(data, size);
    if (const auto dead = dead_.find(data); dead != dead_.end()) {
      dead_.erase(dead);
      return device.release_dead(data);
    }
    if (recording && recorded_.erase(data) == 0) {
      held_.push_back(data);  // CUDA takes back in a recording what it gave in it, nothing else
      return;
    }
    sizes_.erase(data);
    device.release(data, size);
  }
  void upload(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    refuse_while_recording("copy from the host");
    forget(to, bytes);
    synchronisations += device.upload(to, from, bytes);
  }
  /// Also reports what kernels found wrong since the last wait.
  void download(void* to, const void* from, std::size_t bytes) {
    std::int32_t found = 0;
    refuse_while_recording("wait for the device");
    ++synchronisations;
    if (bytes == 0) {
      device.wait(faults, found);
    } else {
      device.download(to, from, bytes, faults, found);
    }
    report(found);
  }
  /// A copy of some numbers to the host, and of what kernels found wrong until then.
  [[nodiscard]] void* read_later(const double* numbers, std::size_t count) {
    refuse_while_recording("copy to the host");
    ESFT_EXPECTS(count + 1 <= gpu::reading_numbers, "a reading is of at most 32 numbers");
    return device.begin_reading(numbers, count, faults);
  }
  [[nodiscard]] std::vector<double> finish_reading(void* reading) {
    ESFT_EXPECTS(reading != nullptr, "a reading that has begun");
    ++synchronisations;
    std::int32_t found = 0;
    std::vector<double> numbers = device.finish_reading(reading, found);
    report(found);
    return numbers;
  }
  /// Throws what a kernel found wrong, and forgets it.
  void report(std::int32_t found) {
    if (found == 0) return;
    device.zero(faults, sizeof(std::int32_t));
    ESFT_EXPECTS(static_cast<fault>(found) != fault::token_id, "a token id lies in [0, V) (an earlier embedding on the device)");
    ESFT_EXPECTS(static_cast<fault>(found) != fault::label, "a label lies in [0, V) (an earlier cross_entropy on the device)");
    ESFT_EXPECTS(static_cast<fault>(found) != fault::expert_id,
                 "routed ids lie in [0, E), or are no_expert (an earlier dispatch on the device)");
  }
  void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    forget(to, bytes);
    device.copy(to, from, bytes);
  }

  /// Offsets on the host. They are copied once and remembered until their memory is written through this backend or given back.
  /// What a recording reads has other values whenever it runs, so none are given while work is recorded, remembered or not.
  [[nodiscard]] const std::vector<std::int32_t>& host_offsets(tensor_view<const std::int32_t, 1, cuda_space> offsets) {
    refuse_while_recording("expert sizes on the host");
    auto known = offsets_.find(offsets.data());
    if (known == offsets_.end() || static_cast<index>(known->second.size()) != offsets.size()) {
      std::vector<std::int32_t> values(static_cast<std::size_t>(offsets.size()));
      download(values.data(), offsets.data(), values.size() * sizeof(std::int32_t));
      known = offsets_.insert_or_assign(offsets.data(), std::move(values)).first;
    }
    return known->second;
  }
  [[nodiscard]] std::size_t remembered_offsets() const noexcept { return offsets_.size(); }
  /// Any memory may change: recorded work runs again.
  void forget_all() noexcept { offsets_.clear(); }
  /// Memory [data, data + bytes) changes.
  void forget(const void* data, std::size_t bytes) noexcept {
    const auto* begin = static_cast<const char*>(data);
    for (auto it = offsets_.begin(); it != offsets_.end();) {
      const auto* first = reinterpret_cast<const char*>(it->first);
      const bool touched = first < begin + bytes && begin < first + it->second.size() * sizeof(std::int32_t);
      it = touched ? offsets_.erase(it) : std::next(it);
    }
  }

  template <class... Parameters, class... Arguments>
  void launch(const grid& shape, void (*kernel)(Parameters...), const Arguments&... arguments) {
    if (shape.blocks == 0) return;
    ESFT_EXPECTS(shape.blocks < (index{1} << 31), "a launch has at most 2^31 - 1 blocks");
    const auto place = [&] { return std::string(shape.where.file_name()) + ":" + std::to_string(shape.where.line()); };
    if (shape.shared_bytes > device.shared_limit()) {
      throw device_error("cuda: the launch at " + place() + " needs " + std::to_string(shape.shared_bytes) +
                         " bytes of shared memory a block, this device has " + std::to_string(device.shared_limit()) +
                         "; use a device of compute capability 8.0 or later, or compute on the processor: eigen_backend in a program, " +
                         "--backend eigen on the command line");
    }
    fail_if_due(cuda_operation::launch, "launch at " + place());
    device.launch(shape, kernel, static_cast<Parameters>(arguments)...);
  }

  void begin_recording() {
    ESFT_EXPECTS(!recording, "a recording ends before another begins");
    ++synchronisations;
    device.begin_recording();
    recording = true;
  }
  [[nodiscard]] std::shared_ptr<void> end_recording() {
    const bool kept = !recorded_.empty();
    if (kept || !held_.empty()) {
      abandon_recording();
      ESFT_EXPECTS(!kept, "tensors made while work is recorded are given back before it ends");
      ESFT_EXPECTS(kept, "tensors made before work is recorded are not given back in it");
    }
    recording = false;
    return device.end_recording();
  }
  /// Tensors that were made in it lie in memory that never was; they may be given back at any time.
  void abandon_recording() noexcept {
    device.abandon_recording();
    recording = false;
    dead_.insert(recorded_.begin(), recorded_.end());
    recorded_.clear();
    for (void* data : std::exchange(held_, {})) release(data);
  }
  void replay(void* recorded) {
    forget_all();  // what the graph routes has other sizes each time
    if (device.replay(recorded)) return;
    ++synchronisations;
    device.trim();
    if (!device.replay(recorded)) gpu::refuse("running recorded work");
  }
  /// What the host brings or takes cannot be part of a recording.
  void refuse_while_recording(const char* what) const {
    if (!recording) return;
    throw device_error(std::string("cuda: no ") + what +
                       " while work is recorded; grouped products need cuda_grouped::device, ids and results stay on the device");
  }

  void fail_if_due(cuda_operation kind, const std::string& what) {
    std::int64_t& left = until_failure[static_cast<std::size_t>(kind)];
    if (left < 0) return;
    if (left-- == 0) throw device_error("cuda: " + what + " failed because a test asked for it");
  }

  const cuda_options options;
  gpu device;
  std::int32_t* faults = nullptr;
  std::int64_t synchronisations = 0;
  std::int64_t tensor_core_ops = 0;
  bool recording = false;
  std::int64_t until_failure[2] = {-1, -1};
  std::atomic<std::int64_t> references{1};

 private:
  std::map<const std::int32_t*, std::vector<std::int32_t>> offsets_;
  std::unordered_map<const void*, std::size_t> sizes_;
  std::unordered_set<void*> recorded_;  ///< made by the recording under way and not yet given back
  std::vector<void*> held_;             ///< made before it and given back in it: released when it is over
  /// Made by abandoned recordings. Their addresses may serve again: of two owners of one, whoever comes first gives nothing back.
  std::unordered_multiset<void*> dead_;
};

/// Memory for the length of one op.
template <class V>
class scratch {
 public:
  scratch(context& owner, index count)
      : owner_(owner), data_(static_cast<V*>(owner.allocate(static_cast<std::size_t>(count) * sizeof(V)))) {}
  ~scratch() { owner_.release(data_); }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;
  [[nodiscard]] V* get() const noexcept { return data_; }

 private:
  context& owner_;
  V* data_;
};

}  // namespace esft::detail::cuda
