# Finds what gsd is built from and defines
#   gsd_dep::llama     libllama and ggml: include directories, libraries and, with the prefix, the loader's link options
#   gsd_dep::headers   CLI11, nlohmann-json, fmt and cpp-httplib
#   gsd_dep::edit      libedit; only where it was found
#   GTest::gtest, GTest::gtest_main, GTest::gmock     only with GSD_BUILD_TESTS
#   benchmark::benchmark                              only with GSD_BUILD_BENCHMARKS
# and sets
#   GSD_LLAMA_MODE     SYSTEM, PREFIX or SOURCE
#   GSD_PREFIX_LIBDIR  PREFIX only: the folder with the prefix's libraries
#   GSD_BACKENDS_DIR   the folder with ggml's loadable backends, or empty where ggml finds or contains them itself
#
# libllama is, in this order:
#   SYSTEM  an installed libllama 0.7 or newer that find_package(llama) finds; skipped with GSD_USE_PREFIX=ON
#   PREFIX  the one that deps/setup.sh has put into .prefix
#   SOURCE  llama.cpp's source, fetched at a pinned tag and built with gsd
# The other dependencies come from .prefix, from the system, or are fetched, in this order.

include(FetchContent)
include(${CMAKE_CURRENT_LIST_DIR}/GsdFindLlama.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/GsdPrefix.cmake)

option(GSD_USE_PREFIX "Take libllama from .prefix even where the system has it" OFF)
get_filename_component(prefix "${CMAKE_CURRENT_LIST_DIR}/../.prefix" ABSOLUTE)
set(GSD_PREFIX "${prefix}" CACHE PATH "The prefix that deps/setup.sh has filled")

# Upstream tags for where nothing is installed. llama.cpp: the package's 1:0.7.0+dfsg-2 is upstream's release v0.7.0 (its
# changelog: "New upstream version 0.7.0+dfsg"; its nightly-tag.txt and LLAMA_BUILD_NUMBER name the same commit b11669).
# Upstream's repository contains the matching ggml. The others are the versions in deps/packages.lock.
set(GSD_LLAMA_TAG v0.7.0)
set(GSD_CLI11_TAG v2.6.1)
set(GSD_JSON_TAG v3.11.3)
set(GSD_FMT_TAG 11.1.1)
set(GSD_HTTPLIB_TAG v0.41.0)
set(GSD_GOOGLETEST_TAG v1.18.0)
set(GSD_BENCHMARK_TAG v1.9.1)

# Configure again when deps/setup.sh has changed the prefix.
if(EXISTS "${GSD_PREFIX}/stamp")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${GSD_PREFIX}/stamp")
endif()

# --- fetching --------------------------------------------------------------------------------------------------------

# Makes the source of a GitHub repository at a tag available as <name>_SOURCE_DIR, in the caller's scope, and adds its CMake
# project unless a folder without one is given as SOURCE_SUBDIR. -DFETCHCONTENT_SOURCE_DIR_<NAME>=<folder> takes an own copy.
macro(gsd_fetch name repository tag)
  string(TOUPPER ${name} upper_name)
  set(archive "${PROJECT_BINARY_DIR}/_deps/${name}-${tag}.tar.gz")
  if(NOT FETCHCONTENT_SOURCE_DIR_${upper_name} AND NOT EXISTS "${archive}")
    message(STATUS "Fetching ${repository} ${tag}")
    file(DOWNLOAD "https://github.com/${repository}/archive/refs/tags/${tag}.tar.gz" "${archive}.part"
         STATUS status TLS_VERIFY ON INACTIVITY_TIMEOUT 60)
    if(NOT status MATCHES "^0;")
      file(REMOVE "${archive}.part")
      list(GET status 1 reason)
      message(FATAL_ERROR "${repository} ${tag} is not installed and cannot be fetched (${reason}): on Debian for amd64 run "
                          "deps/setup.sh; elsewhere install it, check the network, or pass "
                          "-DFETCHCONTENT_SOURCE_DIR_${upper_name}=<folder with its source>.")
    endif()
    file(RENAME "${archive}.part" "${archive}")
  endif()
  FetchContent_Declare(${name} URL "${archive}" ${ARGN})
  FetchContent_MakeAvailable(${name})
endmacro()

# --- libllama ---------------------------------------------------------------------------------------------------------

# Builds llama.cpp's libraries, and nothing else of it, from source.
function(gsd_fetch_llama)
  foreach(part BUILD_COMMON BUILD_TESTS BUILD_TOOLS BUILD_EXAMPLES BUILD_SERVER CURL OPENSSL)
    set(LLAMA_${part} OFF CACHE BOOL "" FORCE)
  endforeach()
  set(BUILD_SHARED_LIBS ON) # a backend plugin needs ggml-base as a shared library
  gsd_fetch(llama_cpp ggml-org/llama.cpp ${GSD_LLAMA_TAG})
  add_library(gsd_dep::llama INTERFACE IMPORTED GLOBAL)
  target_link_libraries(gsd_dep::llama INTERFACE llama ggml)
endfunction()

set(GSD_BACKENDS_DIR "")
if(NOT GSD_USE_PREFIX)
  set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)
  gsd_find_system_llama()
  unset(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL)
endif()
if(llama_FOUND AND NOT GSD_USE_PREFIX)
  set(GSD_LLAMA_MODE SYSTEM)
  message(STATUS "libllama ${llama_VERSION}: the system's, ${llama_DIR}")
  add_library(gsd_dep::llama INTERFACE IMPORTED GLOBAL)
  target_link_libraries(gsd_dep::llama INTERFACE llama ggml::ggml)
  if(GGML_BACKEND_DL AND IS_DIRECTORY "${GGML_BACKEND_DIR}")
    set(GSD_BACKENDS_DIR "${GGML_BACKEND_DIR}")
  endif()
elseif(EXISTS "${GSD_PREFIX}/stamp" AND EXISTS "${GSD_PREFIX}/usr/include/llama.h")
  set(GSD_LLAMA_MODE PREFIX)
  message(STATUS "libllama: from the prefix, ${GSD_PREFIX}")
  file(GLOB GSD_PREFIX_LIBDIR "${GSD_PREFIX}/usr/lib/*-linux-gnu")
  gsd_add_prefix_llama("${GSD_PREFIX_LIBDIR}")
  target_include_directories(gsd_dep::llama INTERFACE "${GSD_PREFIX}/usr/include")
  set(GSD_BACKENDS_DIR "${GSD_PREFIX_LIBDIR}/ggml/backends0")
elseif(GSD_USE_PREFIX)
  message(FATAL_ERROR "GSD_USE_PREFIX is ON, but ${GSD_PREFIX} is not set up; run: deps/setup.sh --use-prefix")
else()
  set(GSD_LLAMA_MODE SOURCE)
  message(STATUS "libllama: building llama.cpp ${GSD_LLAMA_TAG} from source "
                 "(on Debian for amd64, deps/setup.sh fetches a ready-made one)")
  gsd_fetch_llama()
endif()

# --- line editor ------------------------------------------------------------------------------------------------------

# gsd_dep::edit: libedit, where it is. BSD's own, kept up for thirty years, and the only editor of Debian's that is neither
# under the GPL (readline) nor without history and key bindings. Without it `gsd chat` reads plain lines.
if(GSD_LLAMA_MODE STREQUAL "PREFIX" AND EXISTS "${GSD_PREFIX_LIBDIR}/libedit.so.2")
  add_library(gsd_dep::edit INTERFACE IMPORTED GLOBAL)
  target_include_directories(gsd_dep::edit SYSTEM INTERFACE "${GSD_PREFIX}/usr/include")
  target_link_options(gsd_dep::edit INTERFACE
                      "SHELL:-Wl,--push-state,--no-as-needed \"${GSD_PREFIX_LIBDIR}/libedit.so.2\" -Wl,--pop-state")
else()
  find_path(GSD_EDIT_INCLUDE_DIR histedit.h)
  find_library(GSD_EDIT_LIBRARY edit)
  mark_as_advanced(GSD_EDIT_INCLUDE_DIR GSD_EDIT_LIBRARY)
  if(GSD_EDIT_INCLUDE_DIR AND GSD_EDIT_LIBRARY AND NOT GSD_LLAMA_MODE STREQUAL "PREFIX")
    add_library(gsd_dep::edit INTERFACE IMPORTED GLOBAL)
    target_include_directories(gsd_dep::edit SYSTEM INTERFACE "${GSD_EDIT_INCLUDE_DIR}")
    target_link_libraries(gsd_dep::edit INTERFACE "${GSD_EDIT_LIBRARY}")
  endif()
endif()

# --- header-only helpers ----------------------------------------------------------------------------------------------

find_package(Threads REQUIRED)
add_library(gsd_dep::headers INTERFACE IMPORTED GLOBAL)

# Leaves the folder that holds `header` in GSD_<name>_DIR. A system's copy counts only if it matches `pattern`, when given.
function(gsd_find_header_dependency name header repository tag folder pattern)
  find_path(GSD_${name}_INCLUDE_DIR ${header} HINTS "${GSD_PREFIX}/usr/helpers" NO_CMAKE_INSTALL_PREFIX)
  mark_as_advanced(GSD_${name}_INCLUDE_DIR)
  set(dir "${GSD_${name}_INCLUDE_DIR}")
  if(dir AND pattern)
    file(STRINGS "${dir}/${header}" match REGEX "${pattern}" LIMIT_COUNT 1)
  endif()
  if(NOT dir OR (pattern AND NOT match))
    gsd_fetch(gsd_${name} ${repository} ${tag} SOURCE_SUBDIR no-cmake-project) # the files only
    set(dir "${gsd_${name}_SOURCE_DIR}/${folder}")
  endif()
  set(GSD_${name}_DIR "${dir}" PARENT_SCOPE)
endfunction()

gsd_find_header_dependency(cli11 CLI/CLI.hpp CLIUtils/CLI11 ${GSD_CLI11_TAG} include "")
gsd_find_header_dependency(json nlohmann/json.hpp nlohmann/json ${GSD_JSON_TAG} include "")
gsd_find_header_dependency(fmt fmt/format.h fmtlib/fmt ${GSD_FMT_TAG} include "")
# Debian's own httplib.h needs a compiled library and is not taken: in the single header the functions are inline.
gsd_find_header_dependency(httplib httplib.h yhirose/cpp-httplib ${GSD_HTTPLIB_TAG} . "^inline Server::Server")

target_include_directories(gsd_dep::headers INTERFACE "${GSD_json_DIR}" "${GSD_httplib_DIR}")
# The same in every file, since the functions are. The interval says how often a thread that holds an idle connection looks
# whether the server is being stopped.
target_compile_definitions(
  gsd_dep::headers INTERFACE CPPHTTPLIB_KEEPALIVE_TIMEOUT_CHECK_INTERVAL_USECOND=200000 CPPHTTPLIB_LISTEN_BACKLOG=128
                             CPPHTTPLIB_HEADER_MAX_COUNT=64)

# The definitions of CLI11 and fmt are compiled once instead of in every file that includes them, which takes half the time
# off a build from nothing. For fmt this needs a list of its templates, which is that of fmt 11; others stay header-only.
file(GLOB inlines "${GSD_cli11_DIR}/CLI/impl/*_inl.hpp")
list(TRANSFORM inlines REPLACE ".+" "#include \"\\0\"\n")
list(JOIN inlines "" inlines)
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/_deps/cli11.cpp" CONTENT "#include <CLI/CLI.hpp>\n${inlines}" @ONLY)
add_library(gsd_helpers STATIC EXCLUDE_FROM_ALL "${PROJECT_BINARY_DIR}/_deps/cli11.cpp")
target_compile_definitions(gsd_helpers PUBLIC CLI11_COMPILE)
target_include_directories(gsd_helpers SYSTEM PUBLIC "${GSD_cli11_DIR}" "${GSD_fmt_DIR}")
target_link_libraries(gsd_dep::headers INTERFACE Threads::Threads gsd_helpers)
set(fmt_version "")
if(EXISTS "${GSD_fmt_DIR}/fmt/base.h")
  file(STRINGS "${GSD_fmt_DIR}/fmt/base.h" fmt_version REGEX "define FMT_VERSION 11")
endif()
if(fmt_version)
  target_sources(gsd_helpers PRIVATE "${CMAKE_CURRENT_LIST_DIR}/fmt11.cpp")
else()
  target_compile_definitions(gsd_dep::headers INTERFACE FMT_HEADER_ONLY=1)
endif()

# --- Google Test and Google Benchmark ---------------------------------------------------------------------------------

if(GSD_BUILD_TESTS)
  set(INSTALL_GTEST OFF CACHE BOOL "" FORCE)
  if(EXISTS "${GSD_PREFIX}/usr/src/googletest/CMakeLists.txt")
    add_subdirectory("${GSD_PREFIX}/usr/src/googletest" "${PROJECT_BINARY_DIR}/_deps/googletest" EXCLUDE_FROM_ALL SYSTEM)
  else()
    find_package(GTest CONFIG QUIET)
    if(NOT TARGET GTest::gmock)
      gsd_fetch(gsd_googletest google/googletest ${GSD_GOOGLETEST_TAG})
    endif()
  endif()
endif()

# Builds the library alone: benchmark's own project compiles and runs two dozen probes at every first configure.
function(gsd_add_benchmark dir)
  file(GLOB sources "${dir}/src/*.cc")
  list(FILTER sources EXCLUDE REGEX "benchmark_main\\.cc$")
  add_library(gsd_benchmark STATIC EXCLUDE_FROM_ALL ${sources})
  add_library(benchmark::benchmark ALIAS gsd_benchmark)
  target_include_directories(gsd_benchmark SYSTEM PUBLIC "${dir}/include")
  target_compile_definitions(
    gsd_benchmark
    PUBLIC BENCHMARK_STATIC_DEFINE
    PRIVATE HAVE_STD_REGEX HAVE_STEADY_CLOCK BENCHMARK_VERSION="${GSD_BENCHMARK_TAG}")
  target_link_libraries(gsd_benchmark PUBLIC Threads::Threads)
endfunction()

if(GSD_BUILD_BENCHMARKS)
  if(EXISTS "${GSD_PREFIX}/usr/src/benchmark/src/benchmark.cc")
    gsd_add_benchmark("${GSD_PREFIX}/usr/src/benchmark")
  else()
    find_package(benchmark CONFIG QUIET)
    if(NOT TARGET benchmark::benchmark)
      gsd_fetch(gsd_benchmark google/benchmark ${GSD_BENCHMARK_TAG} SOURCE_SUBDIR no-cmake-project)
      gsd_add_benchmark("${gsd_benchmark_SOURCE_DIR}")
    endif()
  endif()
endif()
