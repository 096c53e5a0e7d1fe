# SPDX-License-Identifier: Apache-2.0
# Installs headers, the CMake package and esft.pc. Everything is independent of the architecture, so it goes under share/.
include_guard(GLOBAL)
include(CMakePackageConfigHelpers)

function(esft_install)
  set(where ${CMAKE_INSTALL_DATADIR}/cmake/esft)
  install(TARGETS esft EXPORT esft-targets FILE_SET HEADERS COMPONENT dev)
  install(EXPORT esft-targets NAMESPACE esft:: DESTINATION ${where} COMPONENT dev)
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/esft-config.cmake.in ${PROJECT_BINARY_DIR}/esft-config.cmake
                                INSTALL_DESTINATION ${where} NO_SET_AND_CHECK_MACRO)
  # Before 1.0 a minor version may change the interface.
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/esft-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
  install(FILES ${PROJECT_BINARY_DIR}/esft-config.cmake ${PROJECT_BINARY_DIR}/esft-config-version.cmake
          DESTINATION ${where} COMPONENT dev)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/esft.pc.in ${PROJECT_BINARY_DIR}/esft.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/esft.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig COMPONENT dev)
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/esft COMPONENT dev)
endfunction()
