// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `gpu`: one NVIDIA device: stream, memory pool, pinned staging, cuBLAS on a few side streams. Only nvcc sees it; every call is checked.
#if defined(__CUDACC__)

#include <esft/backends/cuda/device.hpp>
#include <esft/backends/cuda/product.hpp>
#include <esft/core/error.hpp>

#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <cublas_v2.h>
#include <cuda_runtime.h>

namespace esft::detail::cuda {

[[noreturn]] inline void throw_device_error(const std::string& call, const std::string& reason, const call_place& where) {
  throw device_error("cuda: " + call + " failed: " + reason + " (" + where.file_name() + ":" + std::to_string(where.line()) + ")");
}
inline std::string reason_of(cudaError_t status) {
  std::string reason = cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) reason += "; use shorter sequences, fewer trained experts or a device with more memory";
  return reason;
}
/// @throws device_error with the name of the call and its place
inline void check(cudaError_t status, const char* call, call_place where = call_place::current()) {
  if (status != cudaSuccess) throw_device_error(call, reason_of(status), where);
}
inline void check(cublasStatus_t status, const char* call, call_place where = call_place::current()) {
  if (status != CUBLAS_STATUS_SUCCESS) throw_device_error(call, cublasGetStatusString(status), where);
}
#define ESFT_CUDA_CHECK(call) ::esft::detail::cuda::check((call), #call)

/// Not copyable: it owns a stream and what runs on it.
class gpu {
 public:
  static constexpr bool emulated = false;
  static constexpr int lanes = 4;                     ///< streams on which independent products run side by side
  static constexpr std::size_t reading_numbers = 33;  ///< of 8 bytes in a reading, its count of faults included

  static int count() noexcept {
    int devices = 0;
    return cudaGetDeviceCount(&devices) == cudaSuccess ? devices : 0;
  }
  static std::string describe(int ordinal) {
    cudaDeviceProp properties{};
    ESFT_CUDA_CHECK(cudaGetDeviceProperties(&properties, ordinal));
    return std::string(properties.name) + " (sm_" + std::to_string(properties.major) + std::to_string(properties.minor) + ")";
  }

  gpu(int ordinal, bool deterministic) : ordinal_(ordinal), deterministic_(deterministic) {
    try {
      open();
    } catch (...) {
      close();
      throw;
    }
  }
  ~gpu() { close(); }
  gpu(const gpu&) = delete;
  gpu& operator=(const gpu&) = delete;

  [[nodiscard]] int ordinal() const noexcept { return ordinal_; }
  /// Bytes of shared memory that a block can have on this device.
  [[nodiscard]] std::size_t shared_limit() const noexcept { return shared_limit_; }
  /// What nobody holds: what pools hold idle is given back first.
  std::int64_t free_memory() {
    trim();
    std::size_t free = 0;
    std::size_t total = 0;
    ESFT_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    return static_cast<std::int64_t>(free);
  }
  /// Null where there is no room.
  void* allocate(std::size_t bytes) {
    select();
    if (!pooled_) return allocate_kept(bytes);
    void* data = nullptr;
    const cudaError_t status = cudaMallocAsync(&data, bytes, stream_);
    if (!found_room(status)) return nullptr;
    check(status, "cudaMallocAsync");
    return data;
  }
  /// What is told when `trim` made no room either.
  [[noreturn]] static void refuse(const std::string& what) {
    throw_device_error(what, reason_of(cudaErrorMemoryAllocation), call_place::current());
  }
  void release(void* data, std::size_t /*bytes*/) noexcept {
    static_cast<void>(cudaSetDevice(ordinal_));
    if (pooled_) {
      quietly(cudaFreeAsync(data, stream_));
    } else {
      idle_memory_.emplace(sizes_[data], data);
    }
  }
  /// What was made in an abandoned recording: CUDA never gave the memory, and takes none back.
  void release_dead(void*) noexcept {}
  /// Waits, and gives back to the device what pools and dropped recordings hold and nobody uses.
  void trim() {
    select();
    ESFT_CUDA_CHECK(cudaStreamSynchronize(stream_));
    free_kept();
    if (!pooled_) return;
    trim_recordings(ordinal_);
    cudaMemPool_t pool = nullptr;
    ESFT_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, ordinal_));
    ESFT_CUDA_CHECK(cudaMemPoolTrimTo(pool, 0));
  }
  /// Through pinned memory, so that the caller's may change at once. Returns how often it waited for room there.
  int upload(void* to, const void* from, std::size_t bytes) {
    select();
    int waits = 0;
    for (std::size_t at = 0; at < bytes; at += staging_bytes) {
      const std::size_t part = std::min(staging_bytes, bytes - at);
      if (filling_ == nullptr || filling_->used + part > staging_bytes) filling_ = &free_staging(waits);
      char* room = static_cast<char*>(filling_->data) + filling_->used;
      filling_->used += (part + 255) / 256 * 256;
      std::memcpy(room, static_cast<const char*>(from) + at, part);
      ESFT_CUDA_CHECK(cudaMemcpyAsync(static_cast<char*>(to) + at, room, part, cudaMemcpyHostToDevice, stream_));
      ESFT_CUDA_CHECK(cudaEventRecord(filling_->free, stream_));
    }
    return waits;
  }
  /// `finish_reading` ends it. At most `reading_numbers` - 1 numbers.
  void* begin_reading(const double* numbers, std::size_t count, const std::int32_t* faults) {
    select();
    if (idle_.empty()) {
      arrivals_.push_back(std::make_unique<arrival>());
      arrival& made = *arrivals_.back();
      ESFT_CUDA_CHECK(cudaMallocHost(&made.data, reading_numbers * sizeof(double)));
      ESFT_CUDA_CHECK(cudaEventCreateWithFlags(&made.there, cudaEventDisableTiming));
      idle_.push_back(&made);
    }
    arrival* next = idle_.back();
    idle_.pop_back();
    next->count = count;
    char* data = static_cast<char*>(next->data);
    ESFT_CUDA_CHECK(cudaMemcpyAsync(data, faults, sizeof(*faults), cudaMemcpyDeviceToHost, stream_));
    ESFT_CUDA_CHECK(cudaMemcpyAsync(data + sizeof(double), numbers, count * sizeof(double), cudaMemcpyDeviceToHost, stream_));
    ESFT_CUDA_CHECK(cudaEventRecord(next->there, stream_));
    return next;
  }
  std::vector<double> finish_reading(void* reading, std::int32_t& found) {
    auto* mine = static_cast<arrival*>(reading);
    idle_.push_back(mine);
    ESFT_CUDA_CHECK(cudaEventSynchronize(mine->there));
    std::memcpy(&found, mine->data, sizeof(found));
    const auto* numbers = static_cast<const double*>(mine->data) + 1;
    return {numbers, numbers + mine->count};
  }
  /// Waits, and reads what kernels have noted until then.
  void wait(const std::int32_t* faults, std::int32_t& found) {
    select();
    char* note = static_cast<char*>(landing_) + staging_bytes;
    ESFT_CUDA_CHECK(cudaMemcpyAsync(note, faults, sizeof(found), cudaMemcpyDeviceToHost, stream_));
    ESFT_CUDA_CHECK(cudaStreamSynchronize(stream_));
    std::memcpy(&found, note, sizeof(found));
  }
  /// The same behind a copy to the host: one wait where the bytes are few.
  void download(void* to, const void* from, std::size_t bytes, const std::int32_t* faults, std::int32_t& found) {
    select();
    for (std::size_t at = 0; at < bytes; at += staging_bytes) {
      const std::size_t part = std::min(staging_bytes, bytes - at);
      ESFT_CUDA_CHECK(cudaMemcpyAsync(landing_, static_cast<const char*>(from) + at, part, cudaMemcpyDeviceToHost, stream_));
      wait(faults, found);
      std::memcpy(static_cast<char*>(to) + at, landing_, part);
    }
  }
  void copy(void* to, const void* from, std::size_t bytes) {
    select();
    ESFT_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
  }
  void zero(void* to, std::size_t bytes) {
    select();
    ESFT_CUDA_CHECK(cudaMemsetAsync(to, 0, bytes, stream_));
  }
  void synchronise() {
    select();
    ESFT_CUDA_CHECK(cudaStreamSynchronize(stream_));
  }

  void start_clock() {
    select();
    for (cudaEvent_t& event : clock_) {
      if (event == nullptr) ESFT_CUDA_CHECK(cudaEventCreate(&event));
    }
    ESFT_CUDA_CHECK(cudaEventRecord(clock_[0], stream_));
  }
  /// Waits for the end. @unit s
  double stop_clock() {
    select();
    ESFT_CUDA_CHECK(cudaEventRecord(clock_[1], stream_));
    ESFT_CUDA_CHECK(cudaEventSynchronize(clock_[1]));
    float milliseconds = 0;
    ESFT_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, clock_[0], clock_[1]));
    return static_cast<double>(milliseconds) / 1000;
  }
  void begin_recording() {
    select();
    if (!pooled_) throw device_error("cuda: work cannot be recorded on a device without memory pools");
    trim();  // a recording has memory of its own: what the pool keeps for the same work would not be used again
    ESFT_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
  }
  [[nodiscard]] std::shared_ptr<void> end_recording() {
    cudaGraph_t graph = nullptr;
    ESFT_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph));
    cudaGraphExec_t ready = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&ready, graph, 0);
    static_cast<void>(cudaGraphDestroy(graph));
    check(status, "cudaGraphInstantiate");
    return {ready, [device = ordinal_](void* recorded) {
              quietly(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recorded)));
              trim_recordings(device);
            }};
  }
  void abandon_recording() noexcept {
    cudaGraph_t graph = nullptr;
    static_cast<void>(cudaStreamEndCapture(stream_, &graph));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    static_cast<void>(cudaGetLastError());
  }
  /// Whether there was room for the memory of the recording.
  [[nodiscard]] bool replay(void* recorded) {
    select();
    const cudaError_t status = cudaGraphLaunch(static_cast<cudaGraphExec_t>(recorded), stream_);
    if (!found_room(status)) return false;
    check(status, "cudaGraphLaunch");
    return true;
  }

  template <class... Parameters>
  void launch(const grid& shape, void (*kernel)(Parameters...), Parameters... arguments) {
    select();
    if (shape.shared_bytes > 32 * 1024) {  // the limit without asking is 48 KiB, shared arrays that a kernel declares included
      check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes)),
            "cudaFuncSetAttribute", shape.where);
    }
    kernel<<<static_cast<unsigned>(shape.blocks), static_cast<unsigned>(shape.threads), shape.shared_bytes, stream_>>>(arguments...);
    check(cudaGetLastError(), "kernel launch", shape.where);
  }

  /// Side streams wait for what is queued on the main one.
  void fork() {
    select();
    for (int i = 1; i < lanes; ++i) open_side_lane(lanes_[i]);
    ESFT_CUDA_CHECK(cudaEventRecord(forked_, stream_));
    for (int i = 1; i < lanes; ++i) ESFT_CUDA_CHECK(cudaStreamWaitEvent(lanes_[i].stream, forked_, 0));
  }
  /// The main stream waits for the side streams.
  void join() {
    for (int i = 1; i < lanes; ++i) {
      ESFT_CUDA_CHECK(cudaEventRecord(lanes_[i].done, lanes_[i].stream));
      ESFT_CUDA_CHECK(cudaStreamWaitEvent(stream_, lanes_[i].done, 0));
    }
  }
  /// One product on one lane; lane 0 is the main stream. cuBLAS is column-major, so it computes c^T = b^T a^T.
  void multiply(const product& p, int lane) {
    select();
    const float one = 1;
    const float beta = p.accumulate ? 1 : 0;
    ESFT_CUDA_CHECK(cublasGemmEx(lanes_[lane].handle, turned(p.b_transposed), turned(p.a_transposed), narrow(p.n), narrow(p.m), narrow(p.k),
                                 &one, p.b, type_of(p.input), narrow(p.b_transposed ? p.k : p.n), p.a, type_of(p.input),
                                 narrow(p.a_transposed ? p.m : p.k), &beta, p.c, type_of(p.output), narrow(p.n), CUBLAS_COMPUTE_32F,
                                 CUBLAS_GEMM_DEFAULT));
  }
  /// Products of the same types in one call on the main stream, which gets the addresses of b, a and c from the device.
  /// @shape addresses [3, products] in the memory of the device
  void multiply_together(std::span<const product> products, void* const* addresses) {
    select();
    const std::size_t count = products.size();
    std::vector<cublasOperation_t> turn_b, turn_a;
    std::vector<int> m, n, k, step_b, step_a;
    std::vector<float> beta;
    for (const product& p : products) {
      turn_b.push_back(turned(p.b_transposed));
      turn_a.push_back(turned(p.a_transposed));
      m.push_back(narrow(p.m));
      n.push_back(narrow(p.n));
      k.push_back(narrow(p.k));
      step_b.push_back(narrow(p.b_transposed ? p.k : p.n));
      step_a.push_back(narrow(p.a_transposed ? p.m : p.k));
      beta.push_back(p.accumulate ? 1 : 0);
    }
    const std::vector<float> one(count, 1.0F);
    const std::vector<int> alone(count, 1);
    const cudaDataType_t input = type_of(products.front().input);
    ESFT_CUDA_CHECK(cublasGemmGroupedBatchedEx(lanes_[0].handle, turn_b.data(), turn_a.data(), n.data(), m.data(), k.data(), one.data(),
                                               addresses, input, step_b.data(), addresses + count, input, step_a.data(), beta.data(),
                                               addresses + 2 * count, type_of(products.front().output), n.data(),
                                               narrow(static_cast<index>(count)), alone.data(), CUBLAS_COMPUTE_32F));
  }

 private:
  static constexpr std::size_t staging_bytes = std::size_t{4} << 20U;
  static constexpr std::size_t most_staging = 16;
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20U;  ///< fixed, so that cuBLAS always chooses the same kernels
  struct staging {
    void* data = nullptr;
    cudaEvent_t free = nullptr;  ///< when the last copy from it has run
    std::size_t used = 0;
  };
  struct arrival {
    void* data = nullptr;
    cudaEvent_t there = nullptr;
    std::size_t count = 0;
  };
  struct lane_state {
    cudaStream_t stream = nullptr;
    cublasHandle_t handle = nullptr;
    void* workspace = nullptr;
    cudaEvent_t done = nullptr;
    bool ready = false;
  };

  static int narrow(index extent) {
    ESFT_EXPECTS(extent <= std::numeric_limits<int>::max(), "an extent of a matrix product fits 31 bits");
    return static_cast<int>(extent);
  }
  static cudaDataType_t type_of(dtype t) { return t == dtype::bfloat16 ? CUDA_R_16BF : CUDA_R_32F; }
  static cublasOperation_t turned(bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; }

  /// False where memory ran out. A call that fails leaves the device usable.
  static bool found_room(cudaError_t status) noexcept {
    quietly(status);
    return status != cudaErrorMemoryAllocation;
  }
  /// Memory of recordings is not that of the pool: the device keeps it until somebody asks for it.
  static void trim_recordings(int device) noexcept { quietly(cudaDeviceGraphMemTrim(device)); }
  /// Where nobody can be told of a failure: it must not be taken for one of the next launch.
  static void quietly(cudaError_t status) noexcept {
    if (status != cudaSuccess) static_cast<void>(cudaGetLastError());
  }
  /// Memory of a device without pools: what was given back serves again, in the order of the stream; `trim` frees it.
  void* allocate_kept(std::size_t bytes) {
    const std::size_t size = (bytes + 511) / 512 * 512;
    const auto fits = idle_memory_.lower_bound(size);
    void* data = nullptr;
    if (fits != idle_memory_.end() && fits->first <= size + size / 4) {
      data = fits->second;
      idle_memory_.erase(fits);
      return data;
    }
    const cudaError_t status = cudaMalloc(&data, size);
    if (!found_room(status)) return nullptr;
    check(status, "cudaMalloc");
    sizes_[data] = size;
    return data;
  }
  void free_kept() noexcept {
    for (const auto& [size, data] : idle_memory_) {
      static_cast<void>(cudaFree(data));  // waits for what still runs
      sizes_.erase(data);
    }
    idle_memory_.clear();
  }
  /// An empty piece of pinned memory. There are few at first and at most `most_staging`; then the host waits until one has been read.
  staging& free_staging(int& waits) {
    for (std::size_t i = 0; i < staging_.size(); ++i) {
      staging& next = staging_[(next_staging_ + i) % staging_.size()];
      const cudaError_t status = cudaEventQuery(next.free);
      if (status == cudaSuccess) {
        next_staging_ = (next_staging_ + i + 1) % staging_.size();
        next.used = 0;
        return next;
      }
      if (status != cudaErrorNotReady) check(status, "cudaEventQuery");
      static_cast<void>(cudaGetLastError());  // "not ready" is no error of the next launch
    }
    if (staging_.size() < most_staging) {
      staging made;
      open(made);
      return staging_.emplace_back(made);
    }
    staging& oldest = staging_[next_staging_];
    next_staging_ = (next_staging_ + 1) % staging_.size();
    ESFT_CUDA_CHECK(cudaEventSynchronize(oldest.free));
    ++waits;
    oldest.used = 0;
    return oldest;
  }
  static void open(staging& s) {
    ESFT_CUDA_CHECK(cudaMallocHost(&s.data, staging_bytes));
    ESFT_CUDA_CHECK(cudaEventCreateWithFlags(&s.free, cudaEventDisableTiming));
  }

  /// Another backend of this thread may have chosen another device.
  void select() { ESFT_CUDA_CHECK(cudaSetDevice(ordinal_)); }

  void open() {
    int devices = 0;
    const cudaError_t found = cudaGetDeviceCount(&devices);
    if (found != cudaSuccess) devices = 0;
    if (ordinal_ < 0 || ordinal_ >= devices) {
      const bool plain = found == cudaSuccess || found == cudaErrorNoDevice;
      throw device_error("cuda: no device " + std::to_string(ordinal_) + ", this machine has " + std::to_string(devices) +
                         (plain ? std::string() : " (" + std::string(cudaGetErrorString(found)) + ")") +
                         "; compute on the processor: eigen_backend in a program, --backend eigen on the command line");
    }
    select();
    ESFT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    ESFT_CUDA_CHECK(cudaEventCreateWithFlags(&forked_, cudaEventDisableTiming));
    int shared = 0;
    ESFT_CUDA_CHECK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal_));
    shared_limit_ = static_cast<std::size_t>(shared);
    int pools = 0;
    ESFT_CUDA_CHECK(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, ordinal_));
    pooled_ = pools != 0;
    if (pooled_) {
      cudaMemPool_t pool = nullptr;
      ESFT_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, ordinal_));
      std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
      ESFT_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
      void* tried = nullptr;  // some virtual machines claim pools and have none
      pooled_ = cudaMallocAsync(&tried, 512, stream_) == cudaSuccess && cudaFreeAsync(tried, stream_) == cudaSuccess;
      static_cast<void>(cudaGetLastError());
    }
    for (staging& s : staging_) open(s);
    ESFT_CUDA_CHECK(cudaMallocHost(&landing_, staging_bytes + sizeof(std::int32_t)));
    open_lane(lanes_[0], stream_);
  }
  /// Those beside the main stream are opened when products first run side by side: a handle of cuBLAS takes time and memory.
  void open_side_lane(lane_state& l) {
    if (l.ready) return;
    if (l.stream == nullptr) ESFT_CUDA_CHECK(cudaStreamCreateWithFlags(&l.stream, cudaStreamNonBlocking));
    if (l.done == nullptr) ESFT_CUDA_CHECK(cudaEventCreateWithFlags(&l.done, cudaEventDisableTiming));
    open_lane(l, l.stream);
  }
  void open_lane(lane_state& l, cudaStream_t stream) {
    const bool opened = l.handle != nullptr || cublasCreate(&l.handle) == CUBLAS_STATUS_SUCCESS;
    if (!opened || (l.workspace == nullptr && !found_room(cudaMalloc(&l.workspace, workspace_bytes)))) {
      static_cast<void>(cudaGetLastError());  // cuBLAS says by its own status what failed
      trim();
    }
    if (l.handle == nullptr) ESFT_CUDA_CHECK(cublasCreate(&l.handle));
    if (l.workspace == nullptr) ESFT_CUDA_CHECK(cudaMalloc(&l.workspace, workspace_bytes));
    ESFT_CUDA_CHECK(cublasSetStream(l.handle, stream));
    ESFT_CUDA_CHECK(cublasSetWorkspace(l.handle, l.workspace, workspace_bytes));
    ESFT_CUDA_CHECK(cublasSetMathMode(l.handle, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    ESFT_CUDA_CHECK(cublasSetAtomicsMode(l.handle, deterministic_ ? CUBLAS_ATOMICS_NOT_ALLOWED : CUBLAS_ATOMICS_ALLOWED));
    l.ready = true;
  }
  void close() noexcept {
    if (stream_ != nullptr) static_cast<void>(cudaStreamSynchronize(stream_));
    free_kept();
    for (lane_state& l : lanes_) {
      if (l.handle != nullptr) static_cast<void>(cublasDestroy(l.handle));
      if (l.workspace != nullptr) static_cast<void>(cudaFree(l.workspace));
      if (l.done != nullptr) static_cast<void>(cudaEventDestroy(l.done));
      if (l.stream != nullptr) static_cast<void>(cudaStreamDestroy(l.stream));
    }
    for (staging& s : staging_) {
      if (s.free != nullptr) static_cast<void>(cudaEventDestroy(s.free));
      if (s.data != nullptr) static_cast<void>(cudaFreeHost(s.data));
    }
    for (cudaEvent_t event : clock_) {
      if (event != nullptr) static_cast<void>(cudaEventDestroy(event));
    }
    if (landing_ != nullptr) static_cast<void>(cudaFreeHost(landing_));
    for (const std::unique_ptr<arrival>& a : arrivals_) {
      if (a->there != nullptr) static_cast<void>(cudaEventDestroy(a->there));
      if (a->data != nullptr) static_cast<void>(cudaFreeHost(a->data));
    }
    if (forked_ != nullptr) static_cast<void>(cudaEventDestroy(forked_));
    if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
  }

  int ordinal_;
  bool deterministic_;
  bool pooled_ = true;
  std::size_t shared_limit_ = 0;
  std::multimap<std::size_t, void*> idle_memory_;
  std::unordered_map<void*, std::size_t> sizes_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t forked_ = nullptr;
  cudaEvent_t clock_[2] = {nullptr, nullptr};
  std::deque<staging> staging_{2};
  staging* filling_ = nullptr;
  void* landing_ = nullptr;
  std::size_t next_staging_ = 0;
  std::vector<std::unique_ptr<arrival>> arrivals_;
  std::vector<arrival*> idle_;
  lane_state lanes_[lanes]{};
};

}  // namespace esft::detail::cuda

#endif
