# Installs the headers, the libraries, the program and the CMake package `gsd`.
if(NOT TARGET gsd_core OR NOT TARGET gsd_gsd)
  return()
endif()

include(CMakePackageConfigHelpers)
set(GSD_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/gsd)
set_target_properties(gsd_core PROPERTIES EXPORT_NAME core)
set_target_properties(gsd_gsd PROPERTIES EXPORT_NAME gsd OUTPUT_NAME gsd)

install(DIRECTORY include/gsd DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(
  TARGETS gsd_core gsd_gsd
  EXPORT gsdTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET gsd)
  install(TARGETS gsd RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(EXPORT gsdTargets NAMESPACE gsd:: DESTINATION ${GSD_CMAKE_DIR})

configure_package_config_file(cmake/gsdConfig.cmake.in "${PROJECT_BINARY_DIR}/gsdConfig.cmake"
                              INSTALL_DESTINATION ${GSD_CMAKE_DIR})
write_basic_package_version_file("${PROJECT_BINARY_DIR}/gsdConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/gsdConfig.cmake" "${PROJECT_BINARY_DIR}/gsdConfigVersion.cmake"
              cmake/GsdFindLlama.cmake cmake/GsdPrefix.cmake
        DESTINATION ${GSD_CMAKE_DIR})
