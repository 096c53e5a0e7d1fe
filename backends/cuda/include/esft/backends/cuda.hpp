// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `cuda_backend<T>`: the NVIDIA GPU backend. This header is plain C++, without CUDA headers; kernels come from `esft::cuda_runtime`.

#include <esft/backend/unattended.hpp>
#include <esft/backends/cuda/slice_entry.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace esft {

namespace detail::cuda {
struct context;
}  // namespace detail::cuda

/// Memory of an NVIDIA GPU: the host cannot dereference a pointer into it.
struct cuda_space {
  static constexpr bool host_accessible = false;
};

/// What a test can make fail.
enum class cuda_operation : std::uint8_t { allocation, launch };

/// How the products of all experts run.
enum class cuda_grouped : std::uint8_t {
  streams,  ///< cuBLAS: one call an expert, dealt out to a few streams; the host needs the experts' sizes
  batched,  ///< cuBLAS: one call for all experts; where it lacks the types, as for weight gradients of bf16, `streams`
  device    ///< kernels of our own that read the sizes on the device: nothing waits, and a graph can capture a layer
};

/// Numbers on their way to the host.
struct cuda_reading {
  void* place = nullptr;
};

/// Work that a `cuda_backend` has recorded and can run again, without the cost of launching each kernel.
struct cuda_graph {
  std::shared_ptr<void> work;
};

/// How a `cuda_backend` computes.
struct cuda_options {
  int device = 0;
  bool deterministic = true;  ///< two runs give the same bits; without, cuBLAS and the gradient of the embedding add in any order
  cuda_grouped grouped = cuda_grouped::streams;
};

/// Computes on one NVIDIA GPU. `T` is what weights and activations are stored as, float or bf16; sums are always float.
/// Two runs on the same GPU, driver and build give the same bits unless the options say otherwise: no float atomics, sums in an order that
/// shapes alone decide.
/// Not for two threads at once: give each its own backend. The meaning of each member is the table in backend.hpp.
///
/// Work is queued and runs later. The host waits only in `copy_out`, `finish_reading`, in `sum_of_squares` and `cross_entropy` where they
/// return a number, once per `dispatch` whose offsets a grouped product reads, and where it is sixteen pieces of 4 MiB ahead with `copy_in`
/// (`host_synchronisations` counts them all). An id out of range, which a host backend refuses at once, is thrown as `contract_violation`
/// by the next call that waits; no memory out of bounds is touched.
///
/// A function object given to `for_each` must be compiled for the device: include cuda/definitions.hpp in a .cu file and instantiate it
/// there, as src/functions.cu does for those of the library. Elsewhere the program does not link.
template <class T>
class cuda_backend {
  static_assert(std::same_as<T, float> || std::same_as<T, bf16>, "cuda_backend stores float or bf16; for double use reference_backend");

 public:
  using value_type = T;
  using accum_type = float;
  using memory_space = cuda_space;
  using reading = cuda_reading;
  using recording = cuda_graph;
  static constexpr std::string_view name = "cuda";

  template <class U, std::size_t R>
  using view = tensor_view<U, R, cuda_space>;
  using ids = view<const std::int32_t, 1>;
  using slots = view<const std::int32_t, 2>;

  /// Number of devices; 0 without a driver.
  [[nodiscard]] static int devices() noexcept;
  /// @throws device_error where there is no such device
  explicit cuda_backend(const cuda_options& options = {});

  /// Name and compute capability of the device.
  [[nodiscard]] std::string description() const;
  /// Bytes of the device that nobody has taken yet.
  [[nodiscard]] std::int64_t free_memory();
  /// How often the host has waited for the device.
  [[nodiscard]] std::int64_t host_synchronisations() const noexcept;
  /// How many ops ran in kernels of our own on tensor cores: attention of bf16 heads whose width is a multiple of 8, grouped products.
  [[nodiscard]] std::int64_t tensor_core_ops() const noexcept;
  /// Waits until everything queued has run. @throws device_error if any of it failed
  void synchronise();
  /// Records what `work` queues instead of running it. It may use memory that stays where it is; tensors that it makes it gives back, and
  /// it neither waits for the device nor brings numbers from the host. Run it once before, so that everything is loaded. Waits once.
  /// @throws device_error where it waits, as grouped products do other than with cuda_grouped::device
  template <class Work>
  [[nodiscard]] cuda_graph capture(Work&& work) {
    begin_recording();
    try {
      work();
    } catch (...) {
      abandon_recording();
      throw;
    }
    return end_recording();
  }
  /// Queues recorded work; the numbers are those that lie in its memory by then. @pre recorded by this backend
  void replay(const cuda_graph& graph);
  /// Seconds from the first to the last of what `work` queues, by the clock of the device. Waits once.
  template <class Work>
  [[nodiscard]] double seconds(Work&& work) {
    start_clock();
    work();
    return stop_clock();
  }
  /// Begins a copy of at most 32 numbers to the host. Finish each reading once.
  [[nodiscard]] cuda_reading read_later(view<const double, 1> numbers);
  /// Waits for the copy. @throws contract_violation as every call that waits
  [[nodiscard]] std::vector<double> finish_reading(cuda_reading reading);
  /// Makes the operation fail that follows `after` more of its kind: for tests of error paths.
  void inject_failure(cuda_operation kind, std::int64_t after = 0) noexcept;

  template <class U, std::size_t R>
  [[nodiscard]] tensor<U, R, cuda_space> make_tensor(extents<R> shape) {
    std::size_t bytes = 0;
    ESFT_EXPECTS(!__builtin_mul_overflow(static_cast<std::size_t>(element_count(shape)), sizeof(U), &bytes), "the bytes must fit 64 bits");
    return {static_cast<U*>(allocate(bytes)), shape, release, context_.get()};
  }
  template <class U, std::size_t R>
  void fill(view<U, R> x, std::type_identity_t<U> value) {
    static_assert(std::is_trivially_copyable_v<U> && sizeof(U) <= 8);
    fill_bytes(x.data(), &value, sizeof(U), x.size());
  }
  template <class U, class V, std::size_t R>
    requires std::same_as<std::remove_const_t<U>, V>
  void copy(view<U, R> from, view<V, R> to) {
    ESFT_EXPECTS(from.size() == to.size(), "both views have equally many elements");
    copy_bytes(to.data(), from.data(), static_cast<std::size_t>(to.size()) * sizeof(V));
  }
  template <class H, class U, std::size_t R>
  void copy_in(std::span<H> host, view<U, R> to) {
    ESFT_EXPECTS(static_cast<index>(host.size()) == to.size(), "host and tensor have equally many elements");
    if constexpr (std::same_as<std::remove_const_t<H>, U>) {
      upload(to.data(), host.data(), host.size_bytes());
    } else {
      std::vector<U> converted(host.size());
      for (std::size_t i = 0; i < host.size(); ++i) converted[i] = static_cast<U>(host[i]);
      upload(to.data(), converted.data(), converted.size() * sizeof(U));
    }
  }
  template <class H, class U, std::size_t R>
  void copy_out(view<U, R> from, std::span<H> host) {
    ESFT_EXPECTS(static_cast<index>(host.size()) == from.size(), "host and tensor have equally many elements");
    using element = std::remove_const_t<U>;
    if constexpr (std::same_as<element, H>) {
      download(host.data(), from.data(), host.size_bytes());
    } else {
      std::vector<element> stored(host.size());
      download(stored.data(), from.data(), stored.size() * sizeof(element));
      for (std::size_t i = 0; i < host.size(); ++i) host[i] = static_cast<H>(stored[i]);
    }
  }
  template <class Body>
  void for_each(index count, Body body);

  // ---- matrix products

  void linear(view<const T, 2> x, view<const T, 2> w, view<T, 2> y, write_mode mode);
  void linear_dx(view<const T, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode);
  void linear_dw(view<const T, 2> dy, view<const T, 2> x, view<float, 2> dw);
  void logits(view<const T, 2> x, view<const T, 2> w, view<float, 2> y);
  void logits_dx(view<const float, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode);
  void logits_dw(view<const float, 2> dy, view<const T, 2> x, view<float, 2> dw);
  void grouped_linear(view<const T, 2> x, view<const T, 3> w, ids offsets, view<T, 2> y);
  void grouped_linear_dx(view<const T, 2> dy, view<const T, 3> w, ids offsets, view<T, 2> dx);
  void grouped_linear_dw(view<const T, 2> dy, view<const T, 2> x, ids offsets, std::span<const std::int32_t> selected, view<float, 3> dw);

  // ---- routing

  /// Softmax over E experts and the K largest, in one kernel: what `softmax_topk_router` calls where a backend has it.
  /// @shape logits, probabilities [T, E], ids, weights [T, K] @pre K <= E <= 1024
  void softmax_topk(view<const float, 2> logits, bool normalise, float scale, view<std::int32_t, 2> expert_ids, view<float, 2> weights,
                    view<float, 2> probabilities);
  void dispatch(slots expert_ids, view<std::int32_t, 1> offsets, view<std::int32_t, 1> row_slot, view<std::int32_t, 2> slot_row);
  void gather(view<const T, 2> x, ids row_slot, index active, view<T, 2> y);
  void gather_sum(view<const T, 2> y, slots slot_row, view<T, 2> out, write_mode mode);
  void combine(view<const T, 2> y, slots slot_row, view<const float, 2> weights, view<T, 2> out, write_mode mode);

  // ---- activations and elementwise

  void swiglu(view<const T, 2> gate_up, view<T, 2> h);
  void swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<T, 2> dgate_up);
  void weighted_swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<const float, 2> weights, ids row_slot,
                                view<T, 2> dgate_up, view<T, 2> weighted_h, view<float, 2> dweights);
  void add(view<const T, 1> x, view<T, 1> y);
  void adamw(view<T, 1> weight, view<float, 1> master, view<float, 1> m, view<float, 1> v, view<const float, 1> gradient,
             const adamw_step& step);
  [[nodiscard]] double sum_of_squares(view<const float, 1> gradient);

  // ---- all trained pieces, each in one launch

  /// Trained pieces where kernels find them.
  struct update_list {
    tensor<detail::cuda::slice_entry<T>, 1, cuda_space> entries;
    index elements = 0;
    index blocks = 0;
  };
  [[nodiscard]] update_list make_update_list(std::span<const update_slice<cuda_backend>> slices);
  void clear_gradients(const update_list& list);
  [[nodiscard]] double sum_of_squares(const update_list& list);
  void adamw(const update_list& list, view<float, 1> master, view<float, 1> m, view<float, 1> v, const adamw_step& step);
  /// Those of a step that runs without the host (`has_unattended_steps`). An id out of range makes `adamw` skip, too.
  void sum_of_squares(const update_list& list, view<double, 1> numbers);
  void adamw(const update_list& list, view<float, 1> master, view<float, 1> m, view<float, 1> v, const adamw_step& step, double clip_norm,
             view<double, 1> numbers);
  void cross_entropy(view<float, 2> logits, ids labels, view<double, 1> numbers);

  // ---- around the MoE layers

  void embedding(ids tokens, view<const T, 2> table, view<T, 2> y);
  void embedding_dw(ids tokens, view<const T, 2> dy, view<float, 2> dtable);
  void rms_norm(view<const T, 2> x, view<const T, 1> weight, double epsilon, view<T, 2> y, view<float, 1> rstd);
  void rms_norm_dx(view<const T, 2> dy, view<const T, 2> x, view<const T, 1> weight, view<const float, 1> rstd, view<T, 2> dx,
                   write_mode mode);
  void rms_norm_dw(view<const T, 2> dy, view<const T, 2> x, view<const float, 1> rstd, view<float, 1> dweight);
  void rope(view<T, 3> x, ids positions, double theta, int direction);
  void attention(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, ids key_begin, ids key_end, double scale, view<T, 3> o,
                 view<float, 2> lse);
  void attention_backward(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, view<const T, 3> o, view<const float, 2> lse,
                          view<const T, 3> d_o, ids key_begin, ids key_end, double scale, view<T, 3> dq, view<T, 3> dk, view<T, 3> dv);
  [[nodiscard]] double cross_entropy(view<float, 2> logits, ids labels, double scale);

 private:
  void add_loss(view<float, 2> logits, ids labels, double scale, const double* scale_there, double* sum, bool accumulate);
  [[nodiscard]] update_list one_piece(T* weight, view<const float, 1> gradient);
  void start_clock();
  [[nodiscard]] double stop_clock();
  void begin_recording();
  void abandon_recording() noexcept;
  [[nodiscard]] cuda_graph end_recording();
  [[nodiscard]] void* allocate(std::size_t bytes);
  static void release(void* shared, void* data);
  void upload(void* to, const void* from, std::size_t bytes);
  void download(void* to, const void* from, std::size_t bytes);
  void copy_bytes(void* to, const void* from, std::size_t bytes);
  void fill_bytes(void* to, const void* value, std::size_t size, index count);

  std::unique_ptr<detail::cuda::context, void (*)(detail::cuda::context*)> context_;
};

static_assert(transformer_backend<cuda_backend<float>>);
static_assert(transformer_backend<cuda_backend<bf16>>);
static_assert(has_update_list<cuda_backend<float>> && has_update_list<cuda_backend<bf16>>);
static_assert(has_softmax_topk<cuda_backend<float>> && has_softmax_topk<cuda_backend<bf16>>);
static_assert(has_unattended_steps<cuda_backend<float>> && has_unattended_steps<cuda_backend<bf16>>);

}  // namespace esft

#if !defined(ESFT_CUDA_INSTANTIATED_HERE)
namespace esft {
extern template class cuda_backend<float>;
extern template class cuda_backend<bf16>;
}  // namespace esft
#endif
