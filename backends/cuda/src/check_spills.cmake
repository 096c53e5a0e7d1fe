# SPDX-License-Identifier: Apache-2.0
# Fails where a kernel keeps registers in memory. At least one kernel must be seen, so that a changed message is not taken for success.
execute_process(
  COMMAND ${NVCC} -std=c++20 --expt-relaxed-constexpr --resource-usage -gencode=arch=compute_90a,code=sm_90a -cubin
    -I${INCLUDE} -I${OWN} ${SOURCE} -o ${OUTPUT}
  OUTPUT_VARIABLE text ERROR_VARIABLE text RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "the kernels do not compile:\n${text}")
endif()
if(text MATCHES "warning")
  message(FATAL_ERROR "the kernels do not compile without warnings:\n${text}")
endif()
string(REGEX MATCHALL "[0-9]+ bytes spill (stores|loads)" spills "${text}")
list(LENGTH spills seen)
if(seen EQUAL 0)
  message(FATAL_ERROR "the assembler said nothing of spills:\n${text}")
endif()
foreach(spill IN LISTS spills)
  if(NOT spill MATCHES "^0 ")
    message(FATAL_ERROR "a kernel spills registers:\n${text}")
  endif()
endforeach()
message(STATUS "${seen} counts of spilled bytes, all zero")
