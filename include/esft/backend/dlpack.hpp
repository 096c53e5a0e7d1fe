// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// DLPack in and out without a copy: tensors of other frameworks as views or owners of ours, and ours as theirs.
///
/// DLPack is a C structure that frameworks pass to each other. These are templates over the structure of *your* `<dlpack/dlpack.h>`, of any
/// version: `DLManagedTensor`, or `DLManagedTensorVersioned` of version 1. esft needs no such header itself.
/// Neither side waits for a device: whoever gives a tensor has finished writing it, or says on which stream that happens.
/// @source https://dmlc.github.io/dlpack/latest/c_api.html

#include <esft/backend/tensor.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/error.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

namespace esft {

/// DLPack's number of the devices whose memory a space is; a backend specialises it for its own.
template <memory_space Space>
struct dlpack_device;
template <>
struct dlpack_device<host_space> {
  static constexpr int type = 1;  ///< kDLCPU
};

/// An element type as DLPack writes it.
struct dlpack_element {
  int code = 0;  ///< 0 signed integer, 1 unsigned integer, 2 IEEE floating point, 4 bfloat16
  int bits = 0;
  friend constexpr bool operator==(const dlpack_element&, const dlpack_element&) = default;
};
[[nodiscard]] constexpr dlpack_element dlpack_element_of(dtype type) noexcept {
  switch (type) {
    case dtype::float64:
      return {2, 64};
    case dtype::float32:
      return {2, 32};
    case dtype::float16:
      return {2, 16};
    case dtype::bfloat16:
      return {4, 16};
    case dtype::int64:
      return {0, 64};
    case dtype::int32:
      return {0, 32};
    case dtype::uint8:
      return {1, 8};
  }
  return {};
}

namespace detail {

[[noreturn]] inline void refuse_dlpack(const std::string& problem, const std::string& way_out) {
  throw usage_error("a DLPack tensor " + problem + "; " + way_out);
}

/// Everything that must hold before memory is looked at.
template <class T, std::size_t Rank, memory_space Space, class Foreign>
void expect_dlpack_fits(const Foreign& given, int device) {
  const auto number = [](auto value) { return std::to_string(static_cast<long long>(value)); };
  if (static_cast<int>(given.device.device_type) != dlpack_device<Space>::type || static_cast<int>(given.device.device_id) != device) {
    refuse_dlpack("lies on device " + number(given.device.device_type) + ":" + number(given.device.device_id) + ", wanted is " +
                      number(dlpack_device<Space>::type) + ":" + number(device),
                  "copy it there first");
  }
  const dlpack_element wanted = dlpack_element_of(dtype_v<std::remove_const_t<T>>);
  if (given.dtype.lanes != 1 || dlpack_element{given.dtype.code, given.dtype.bits} != wanted) {
    refuse_dlpack("holds elements of code " + number(given.dtype.code) + ", " + number(given.dtype.bits) + " bits, " +
                      number(given.dtype.lanes) + " lanes, wanted is " + std::string(name_of(dtype_v<std::remove_const_t<T>>)),
                  "convert it first");
  }
  if (given.ndim != static_cast<std::int32_t>(Rank)) {
    refuse_dlpack("has " + number(given.ndim) + " dimensions, wanted are " + number(Rank), "reshape it first");
  }
  index size = 1;
  for (std::size_t d = 0; d < Rank; ++d) {
    const index extent = given.shape[d];
    if (extent < 0 || __builtin_mul_overflow(size, extent, &size)) refuse_dlpack("has an impossible shape", "check who made it");
  }
  index stride = 1;
  for (std::size_t d = Rank; given.strides != nullptr && size > 0 && d-- > 0;) {
    if (given.shape[d] != 1 && given.strides[d] != stride) {
      refuse_dlpack("is not row-major and contiguous (stride " + number(given.strides[d]) + " in dimension " + number(d) + ", wanted is " +
                        number(stride) + ")",
                    "make it contiguous first");
    }
    stride *= given.shape[d];
  }
  const auto address = reinterpret_cast<std::uintptr_t>(given.data) + given.byte_offset;
  if (size > 0 && given.data == nullptr) refuse_dlpack("has no memory", "check who made it");
  if (address % alignof(T) != 0) refuse_dlpack("is not aligned for its elements", "copy it first");
}

template <std::size_t Rank, class Foreign>
extents<Rank> dlpack_shape(const Foreign& given) {
  extents<Rank> shape{};
  for (std::size_t d = 0; d < Rank; ++d) shape[d] = given.shape[d];
  return shape;
}
template <class T, class Foreign>
T* dlpack_data(const Foreign& given) {
  return given.data == nullptr ? nullptr : reinterpret_cast<T*>(static_cast<char*>(given.data) + given.byte_offset);
}

/// What a tensor that we give away needs to live on its own.
template <class Managed, std::size_t Rank>
struct dlpack_export {
  Managed managed{};
  extents<Rank> shape{};
  extents<Rank> strides{};
  std::shared_ptr<void> keeps;
};

template <class Managed, class T, std::size_t Rank, memory_space Space>
Managed* make_dlpack(tensor_view<T, Rank, Space> view, std::shared_ptr<void> keeps, int device) {
  auto whole = std::make_unique<dlpack_export<Managed, Rank>>();
  whole->shape = view.shape();
  index stride = 1;
  for (std::size_t d = Rank; d-- > 0;) {
    whole->strides[d] = stride;
    stride *= view.extent(d);
  }
  whole->keeps = std::move(keeps);
  auto& out = whole->managed.dl_tensor;
  out.data = const_cast<std::remove_const_t<T>*>(view.data());
  out.device.device_type = static_cast<decltype(out.device.device_type)>(dlpack_device<Space>::type);
  out.device.device_id = static_cast<decltype(out.device.device_id)>(device);
  out.ndim = static_cast<decltype(out.ndim)>(Rank);
  constexpr dlpack_element element = dlpack_element_of(dtype_v<std::remove_const_t<T>>);
  out.dtype.code = static_cast<decltype(out.dtype.code)>(element.code);
  out.dtype.bits = static_cast<decltype(out.dtype.bits)>(element.bits);
  out.dtype.lanes = 1;
  out.shape = whole->shape.data();
  out.strides = whole->strides.data();
  out.byte_offset = 0;
  if constexpr (requires(Managed m) { m.version.major; }) {
    whole->managed.version.major = 1;
    whole->managed.flags = std::is_const_v<T> ? 1 : 0;  // DLPACK_FLAG_BITMASK_READ_ONLY
  } else {
    static_assert(!std::is_const_v<T>, "the structure of this DLPack version cannot say that a tensor must not be written");
  }
  whole->managed.manager_ctx = whole.get();
  whole->managed.deleter = [](Managed* self) { delete static_cast<dlpack_export<Managed, Rank>*>(self->manager_ctx); };
  return &whole.release()->managed;
}

}  // namespace detail

/// A view of another framework's tensor (`DLTensor`), which goes on owning it. No copy.
/// @throws usage_error saying what it has and what is wanted: device, element type, number of dimensions, strides, alignment
template <class T, std::size_t Rank, memory_space Space = host_space, class Foreign>
[[nodiscard]] tensor_view<T, Rank, Space> view_of_dlpack(const Foreign& given, int device = 0) {
  detail::expect_dlpack_fits<T, Rank, Space>(given, device);
  return {detail::dlpack_data<T>(given), detail::dlpack_shape<Rank>(given)};
}

/// Takes another framework's tensor over: its deleter runs when ours goes. No copy.
/// @throws usage_error as `view_of_dlpack`, and for a tensor that must not be written; then it still belongs to the caller
template <class T, std::size_t Rank, memory_space Space = host_space, class Managed>
  requires(!std::is_const_v<T>)
[[nodiscard]] tensor<T, Rank, Space> tensor_from_dlpack(Managed* given, int device = 0) {
  ESFT_EXPECTS(given != nullptr, "a managed tensor");
  if constexpr (requires(Managed m) { m.version.major; }) {
    if (given->version.major != 1) {
      detail::refuse_dlpack("is of version " + std::to_string(given->version.major) + ", known is 1", "ask for version 1");
    }
    if ((given->flags & 1U) != 0) detail::refuse_dlpack("is read-only", "view it as const elements, or copy it");
  }
  const auto view = view_of_dlpack<T, Rank, Space>(given->dl_tensor, device);
  const auto release = [](void* context, void*) {
    auto* managed = static_cast<Managed*>(context);
    if (managed->deleter != nullptr) managed->deleter(managed);
  };
  if (view.data() == nullptr) {  // an owner of no memory would never be asked to give it back
    release(given, nullptr);
    return {nullptr, view.shape(), nullptr};
  }
  return {view.data(), view.shape(), release, given};
}

/// Gives a tensor of ours to another framework, which calls the structure's `deleter` when it is done. No copy.
template <class Managed, class T, std::size_t Rank, memory_space Space>
[[nodiscard]] Managed* dlpack_of(tensor<T, Rank, Space>&& given, int device = 0) {
  const auto kept = std::make_shared<tensor<T, Rank, Space>>(std::move(given));
  return detail::make_dlpack<Managed>(kept->view(), kept, device);
}

/// Lends a view of ours, such as a weight of a model; `owner` stays alive until the other framework is done. No copy.
template <class Managed, class T, std::size_t Rank, memory_space Space>
[[nodiscard]] Managed* dlpack_of(tensor_view<T, Rank, Space> view, std::shared_ptr<void> owner, int device = 0) {
  return detail::make_dlpack<Managed>(view, std::move(owner), device);
}

}  // namespace esft
