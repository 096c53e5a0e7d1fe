# SPDX-License-Identifier: Apache-2.0
# Compiles CASE (syntax only). TWIN=compiles: must succeed. TWIN=must_fail: must fail with the message that CASE promises.
file(STRINGS ${CASE} expected REGEX "^// expect: ")
string(REGEX REPLACE "^// expect: " "" expected "${expected}")
string(REPLACE "\\n" "\n" expected "${expected}")  # CMake's regular expressions know no escapes
if(NOT expected)
  message(FATAL_ERROR "${CASE} has no line `// expect: <regex>`")
endif()
set(flags)
if(TWIN STREQUAL must_fail)
  file(STRINGS ${CASE} flags REGEX "^// flags: ")
  string(REGEX REPLACE "^// flags: " "" flags "${flags}")
  separate_arguments(flags)
  list(APPEND flags -DESFT_MUST_FAIL)
endif()

execute_process(
  COMMAND ${CMAKE_COMMAND} -E env LC_ALL=C ${COMPILER} -std=c++20 -fsyntax-only -fno-elide-type -I${INCLUDE} ${flags} ${CASE}
  RESULT_VARIABLE failed OUTPUT_VARIABLE text ERROR_VARIABLE text)
if(TWIN STREQUAL compiles)
  if(failed)
    message(FATAL_ERROR "this must compile:\n${text}")
  endif()
elseif(NOT failed)
  message(FATAL_ERROR "this must not compile, and it does")
elseif(NOT text MATCHES "${expected}")
  message(FATAL_ERROR "the compiler refuses, but its message does not match `${expected}`:\n${text}")
endif()
