# SPDX-License-Identifier: Apache-2.0
# Components of the package: a target esft::<name>, installed and exported on its own, so that find_package(esft COMPONENTS <name>)
# looks for the dependencies of the components it was asked for, and for no others.
include_guard(GLOBAL)

# esft_add_component(<name> LINK <targets> DEPENDENCIES <"package version">... MODULES <files>)
#   LINK          what users of the component link besides esft::esft
#   DEPENDENCIES  what find_package(esft COMPONENTS <name>) must find, one argument of find_dependency() each
#   MODULES       our own find modules for these, installed with the component
# A folder include/ beside the caller becomes the header set of the component.
function(esft_add_component name)
  cmake_parse_arguments(PARSE_ARGV 1 component "" "" "LINK;DEPENDENCIES;MODULES")
  if(component_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "esft_add_component(${name}): unknown arguments ${component_UNPARSED_ARGUMENTS}")
  endif()
  add_library(esft_${name} INTERFACE)
  add_library(esft::${name} ALIAS esft_${name})
  set_target_properties(esft_${name} PROPERTIES EXPORT_NAME ${name})
  target_link_libraries(esft_${name} INTERFACE esft::esft ${component_LINK})
  set(header_set)
  if(IS_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/include AND NOT CMAKE_CURRENT_SOURCE_DIR STREQUAL PROJECT_SOURCE_DIR)
    file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/include/*.hpp)
    target_sources(esft_${name} INTERFACE FILE_SET HEADERS BASE_DIRS include FILES ${headers})
    set(header_set FILE_SET HEADERS COMPONENT dev)
  endif()

  set(text "# Component '${name}' of esft.\n")
  if(component_MODULES)
    install(FILES ${component_MODULES} DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/esft COMPONENT dev)
    string(APPEND text "list(APPEND CMAKE_MODULE_PATH \${CMAKE_CURRENT_LIST_DIR})\n")
  endif()
  foreach(dependency IN LISTS component_DEPENDENCIES)
    string(APPEND text "find_dependency(${dependency})\n")
  endforeach()
  string(APPEND text "include(\${CMAKE_CURRENT_LIST_DIR}/esft-${name}-targets.cmake)\n")
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/esft-component-${name}.cmake CONTENT "${text}" @ONLY)

  install(TARGETS esft_${name} EXPORT esft-${name}-targets ${header_set})
  install(EXPORT esft-${name}-targets NAMESPACE esft:: DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/esft COMPONENT dev)
  install(FILES ${PROJECT_BINARY_DIR}/esft-component-${name}.cmake DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/esft COMPONENT dev)
endfunction()

# A compute backend or a communicator of the folder backends/: a component whose headers lie in its include/.
function(esft_add_backend name)
  esft_add_component(${name} ${ARGN})
  # Users include <esft/backends/NAME.hpp>, which many sources here include first; what lies below it is not for them, and checking each of
  # those headers on its own is a tenth of a build from nothing.
  set_target_properties(esft_${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS OFF)
endfunction()
