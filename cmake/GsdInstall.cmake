# Installs the headers, the libraries, the program with its documents, and the CMake package `gsd`; packs them (CPack).
#
#   bin/gsd                   the program; with the prefix's libllama a script that starts lib/gsd/gsd with the loader beside it
#   lib/gsd/                  the plugin and, with the prefix's libllama, every library that the program needs
#   lib/libgsd.so             the C API, with include/gsd.h and lib/pkgconfig/gsd.pc
#   share/doc/gsd/            licences, also those of what is copied along
#   share/man, share/…        the manual page and the shells' completions
#
# The component gsd_library is what libgsd.so needs, for the Python package (python/build_wheel.py).
#
# Nothing in the tree names the folder that it was installed in or the checkout: it may be moved.
if(NOT TARGET gsd_core OR NOT TARGET gsd_gsd)
  return()
endif()

include(CMakePackageConfigHelpers)
set(GSD_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/gsd)
set_target_properties(gsd_core PROPERTIES EXPORT_NAME core)
set_target_properties(gsd_gsd PROPERTIES EXPORT_NAME gsd OUTPUT_NAME gsd)
add_custom_target(gsd_installed DEPENDS gsd_core gsd_gsd) # everything that is installed

# --- libraries and headers --------------------------------------------------------------------------------------------

install(DIRECTORY include/gsd DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(
  TARGETS gsd_core gsd_gsd
  EXPORT gsdTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT gsdTargets NAMESPACE gsd:: DESTINATION ${GSD_CMAKE_DIR})

set(GSD_INSTALLED_BACKENDS_DIR "${GSD_BACKENDS_DIR}")
if(GSD_LLAMA_MODE STREQUAL "PREFIX")
  set(GSD_INSTALLED_BACKENDS_DIR "\${PACKAGE_PREFIX_DIR}/${GSD_PLUGIN_DIR}/ggml/backends0")
endif()
configure_package_config_file(cmake/gsdConfig.cmake.in "${PROJECT_BINARY_DIR}/gsdConfig.cmake"
                              INSTALL_DESTINATION ${GSD_CMAKE_DIR})
write_basic_package_version_file("${PROJECT_BINARY_DIR}/gsdConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/gsdConfig.cmake" "${PROJECT_BINARY_DIR}/gsdConfigVersion.cmake"
              cmake/GsdFindLlama.cmake cmake/GsdPrefix.cmake cmake/program.map
        DESTINATION ${GSD_CMAKE_DIR})

# --- the C API --------------------------------------------------------------------------------------------------------

if(TARGET gsd_capi)
  add_dependencies(gsd_installed gsd_capi)
  install(TARGETS gsd_capi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT gsd_library)
  install(FILES capi/gsd.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT gsd_library)
  # With the prefix's libllama a program that uses it is started by the loader beside it, as in GsdPrefix.cmake.
  set(GSD_PC_LOADER "")
  if(GSD_LLAMA_MODE STREQUAL "PREFIX")
    file(GLOB loader "${GSD_PREFIX_LIBDIR}/ld-linux-*.so.*")
    get_filename_component(loader "${loader}" NAME)
    set(GSD_PC_LOADER " -Wl,--dynamic-linker,\${libdir}/gsd/${loader} -Wl,--disable-new-dtags,-rpath,\${libdir}/gsd:\${libdir}\
 -Wl,--allow-shlib-undefined")
  endif()
  file(RELATIVE_PATH GSD_PC_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  configure_file(cmake/gsd.pc.in "${PROJECT_BINARY_DIR}/gsd.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/gsd.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT gsd_library)
endif()

# --- what is loaded at run time ---------------------------------------------------------------------------------------

if(TARGET ggml-gsd)
  add_dependencies(gsd_installed ggml-gsd)
  install(TARGETS ggml-gsd LIBRARY DESTINATION ${GSD_PLUGIN_DIR} COMPONENT gsd_library)
endif()
if(GSD_LLAMA_MODE STREQUAL "PREFIX")
  file(GLOB loader "${GSD_PREFIX_LIBDIR}/ld-linux-*.so.*")
  get_filename_component(GSD_LOADER "${loader}" NAME)
  set(program_only libedit.so.2 libbsd.so.0 libmd.so.0 libtinfo.so.6)
  foreach(name ${GSD_LOADER} libllama.so.0 libggml.so.0 libggml-base.so.0 libgomp.so.1 libstdc++.so.6 libgcc_s.so.1
               libm.so.6 libc.so.6 libvulkan.so.1 ${program_only})
    if(EXISTS "${GSD_PREFIX_LIBDIR}/${name}")
      set(component gsd_library)
      if(name IN_LIST program_only)
        set(component gsd_program)
      endif()
      file(REAL_PATH "${GSD_PREFIX_LIBDIR}/${name}" file)
      install(PROGRAMS "${file}" DESTINATION ${GSD_PLUGIN_DIR} RENAME ${name} COMPONENT ${component})
    endif()
  endforeach()
  install(DIRECTORY "${GSD_BACKENDS_DIR}" DESTINATION ${GSD_PLUGIN_DIR}/ggml COMPONENT gsd_library)
endif()

# --- the program ------------------------------------------------------------------------------------------------------

if(TARGET gsd AND GSD_LLAMA_MODE STREQUAL "PREFIX")
  # The program once more, from the same objects, without the paths of this machine.
  add_executable(gsd_relocatable $<TARGET_OBJECTS:gsd>)
  target_link_libraries(gsd_relocatable PRIVATE $<TARGET_PROPERTY:gsd,LINK_LIBRARIES>)
  set_target_properties(
    gsd_relocatable
    PROPERTIES OUTPUT_NAME gsd
               RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/relocatable"
               GSD_RELOCATABLE ON
               INSTALL_RPATH "$ORIGIN"
               BUILD_WITH_INSTALL_RPATH ON)
  configure_file(cmake/launcher.sh.in "${PROJECT_BINARY_DIR}/launcher.sh" @ONLY)
  add_dependencies(gsd_installed gsd_relocatable)
  install(TARGETS gsd_relocatable RUNTIME DESTINATION ${GSD_PLUGIN_DIR})
  install(PROGRAMS "${PROJECT_BINARY_DIR}/launcher.sh" DESTINATION ${CMAKE_INSTALL_BINDIR} RENAME gsd)
elseif(TARGET gsd)
  add_dependencies(gsd_installed gsd)
  install(TARGETS gsd RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

if(TARGET gsd)
  set(reference "${PROJECT_BINARY_DIR}/reference")
  foreach(format man bash zsh fish)
    add_custom_command(
      OUTPUT "${reference}/gsd.${format}"
      COMMAND ${CMAKE_COMMAND} -E make_directory "${reference}"
      COMMAND gsd reference ${format} >"${reference}/gsd.${format}"
      DEPENDS gsd)
    list(APPEND references "${reference}/gsd.${format}")
  endforeach()
  add_custom_target(gsd_reference ALL DEPENDS ${references})
  add_dependencies(gsd_installed gsd_reference)
  install(FILES "${reference}/gsd.man" DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 RENAME gsd.1)
  set(completions ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
  install(FILES "${reference}/gsd.bash" DESTINATION ${completions} RENAME gsd)
  install(FILES "${reference}/gsd.fish" DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
  # Debian's zsh looks for those of its packages in a folder of their own.
  foreach(folder site-functions vendor-completions)
    install(FILES "${reference}/gsd.zsh" DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/${folder} RENAME _gsd)
  endforeach()
endif()

# --- licences ---------------------------------------------------------------------------------------------------------

install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright COMPONENT gsd_library)
if(GSD_LLAMA_MODE STREQUAL "PREFIX")
  # Of what is copied along, of what is compiled in, and the texts that those name. GCC's libraries have theirs in a package
  # of the compiler.
  foreach(package libllama0 libggml0 libggml0-backend-vulkan libggml0-backend-rpc libvulkan1 libc6 libcli11-dev nlohmann-json3-dev libfmt-dev cpp-httplib
          libedit2 libbsd0 libmd0 libtinfo6)
    if(EXISTS "${GSD_PREFIX}/usr/share/doc/${package}/copyright")
      list(APPEND copyrights "${GSD_PREFIX}/usr/share/doc/${package}/copyright")
    endif()
  endforeach()
  file(GLOB gcc_copyrights /usr/share/doc/gcc-*-base/copyright)
  list(SUBLIST gcc_copyrights 0 1 gcc_copyright)
  set(licences "")
  foreach(file ${copyrights} ${gcc_copyright})
    get_filename_component(package "${file}" DIRECTORY)
    get_filename_component(package "${package}" NAME)
    install(FILES "${file}" DESTINATION ${CMAKE_INSTALL_DOCDIR}/licences RENAME ${package} COMPONENT gsd_library)
    file(STRINGS "${file}" lines REGEX "/usr/share/common-licenses/")
    string(REGEX MATCHALL "/usr/share/common-licenses/[A-Za-z]+(-[0-9]+(\\.[0-9]+)?)?" names "${lines}")
    list(APPEND licences ${names})
  endforeach()
  list(REMOVE_DUPLICATES licences)
  foreach(file ${licences})
    file(REAL_PATH "${file}" file)
    install(FILES "${file}" DESTINATION ${CMAKE_INSTALL_DOCDIR}/licences COMPONENT gsd_library OPTIONAL)
  endforeach()
  install(FILES "${GSD_PREFIX}/stamp" DESTINATION ${CMAKE_INSTALL_DOCDIR}/licences RENAME debian-packages COMPONENT gsd_library)
endif()

# --- packages ---------------------------------------------------------------------------------------------------------

set(CPACK_GENERATOR TGZ DEB)
set(CPACK_PACKAGE_CONTACT "The GSD authors")
set(CPACK_PACKAGE_DIRECTORY "${PROJECT_BINARY_DIR}/packages")
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
if(NOT GSD_LLAMA_MODE STREQUAL "PREFIX")
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
endif()
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON) # the tests need not be built for a package
include(CPack)
