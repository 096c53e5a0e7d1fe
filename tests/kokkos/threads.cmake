# SPDX-License-Identifier: Apache-2.0
# Every op of PROGRAM with 1, 2 and 3 threads: digests of the outputs must be the same, and the threads there.
foreach(threads 1 2 3)
  set(report ${FOLDER}/kokkos_threads_${threads}.xml)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env --unset=OMP_NUM_THREADS KOKKOS_NUM_THREADS=${threads} ${PROGRAM}
      --gtest_filter=*two_runs_give_the_same_bits --gtest_output=xml:${report}
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${threads} threads: ${out}")
  endif()
  file(READ ${report} text)
  string(REGEX MATCHALL "digest\"[^0-9]*[0-9]+" digests "${text}")
  string(REGEX MATCHALL "threads\"[^0-9]*[0-9]+" used "${text}")
  list(LENGTH digests count)
  list(REMOVE_DUPLICATES used)
  if(NOT count EQUAL 2 OR NOT used MATCHES "^threads\"[^0-9]*${threads}$")
    message(FATAL_ERROR "${threads} threads: two digests made with so many were expected: ${digests}; ${used}")
  endif()
  if(DEFINED first AND NOT digests STREQUAL first)
    message(FATAL_ERROR "${threads} threads give other bits than 1: ${digests} instead of ${first}")
  endif()
  set(first "${digests}")
endforeach()
message(STATUS "1, 2 and 3 threads: ${first}")
