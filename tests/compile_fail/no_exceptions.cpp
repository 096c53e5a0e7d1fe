// SPDX-License-Identifier: Apache-2.0
// expect: compile without -fno-exceptions
// flags: -fno-exceptions
// Without exceptions every refusal would have to end the program, which a library does not.
#include <esft/backend.hpp>
