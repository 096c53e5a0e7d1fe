// SPDX-License-Identifier: Apache-2.0
// A small library for dlpack_tensors.py: gives a tensor to another framework, and takes one.
#include "../../dlpack_structures.hpp"

#include <esft/backend/dlpack.hpp>

#include <cstdio>
#include <exception>
#include <utility>

using esft_test::dlpack::managed;

extern "C" {

/// A tensor of ours, [2, 3] floats 0 to 5; `memory` gets its address.
managed* give(void** memory) {
  auto ours = esft::make_host_tensor<float, 2>({2, 3});
  for (int i = 0; i < 6; ++i) ours.data()[i] = static_cast<float>(i);
  *memory = ours.data();
  return esft::dlpack_of<managed>(std::move(ours));
}

/// Takes [2, 3] bfloat16, doubles every element in place and lets it go. 0 when it did, 1 with the reason when it was refused.
int take(managed* theirs, char* reason, std::size_t size) {
  try {
    auto ours = esft::tensor_from_dlpack<esft::bf16, 2>(theirs);
    for (esft::index i = 0; i < ours.size(); ++i) ours.data()[i] = esft::bf16(2 * static_cast<float>(ours.data()[i]));
    return 0;
  } catch (const std::exception& problem) {
    std::snprintf(reason, size, "%s", problem.what());
    return 1;
  }
}
}
