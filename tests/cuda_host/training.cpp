// SPDX-License-Identifier: Apache-2.0
// What the GPU backend promises besides numbers, on the emulator: routing of any bits, errors, failures, waits, training.
#include "../cuda/training.hpp"
