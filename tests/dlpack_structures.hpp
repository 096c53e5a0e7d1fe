// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The structures of DLPack as its specification lays them out, so that tests need no header of it.

#include <cstdint>

namespace esft_test::dlpack {

enum device_type : std::int32_t { cpu = 1, cuda = 2 };
struct device {
  dlpack::device_type device_type;
  std::int32_t device_id;
};
struct data_type {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct tensor {
  void* data;
  dlpack::device device;
  std::int32_t ndim;
  data_type dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct managed {
  tensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(managed*);
};
struct version {
  std::uint32_t major, minor;
};
struct managed_versioned {
  dlpack::version version;
  void* manager_ctx;
  void (*deleter)(managed_versioned*);
  std::uint64_t flags;
  tensor dl_tensor;
};
static_assert(sizeof(tensor) == 48 && sizeof(managed) == 64 && sizeof(managed_versioned) == 80, "as a 64-bit C compiler lays them out");

}  // namespace esft_test::dlpack
