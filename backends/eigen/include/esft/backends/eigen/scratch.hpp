// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Scratch memory of one thread: a few aligned buffers that grow and are used again.

#include <esft/backend/tensor.hpp>

#include <array>
#include <vector>

namespace esft::detail::eigen {

/// What the buffers of a thread hold.
enum class buffer : std::uint8_t { left, right, result, scores, partial, extra, more, last };

/// Buffers of one thread. Contents do not survive the next request for the same buffer.
class scratch {
 public:
  float* operator()(buffer which, index count) {
    auto& owner = buffers_[static_cast<std::size_t>(which)];
    if (owner.size() < count) owner = make_host_tensor<float, 1>({count + count / 4});
    return owner.data();
  }

 private:
  std::array<host_tensor<float, 1>, static_cast<std::size_t>(buffer::last)> buffers_;
};

}  // namespace esft::detail::eigen
