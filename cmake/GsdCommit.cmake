# gsd_commit(target): makes the checkout's commit available to the sources of `target` as
#   #include "gsd_commit.h"      // #define GSD_COMMIT "4c2086f6d1a2", "…-dirty" with changes, "unknown" without git
# Every build looks; the header is written again only when the commit has changed. This file also runs as the script that
# does it.
if(CMAKE_SCRIPT_MODE_FILE)
  if(EXISTS "${SOURCE}/.git") # not that of a repository around it
    execute_process(
      COMMAND git -C "${SOURCE}" describe --always --dirty --abbrev=12 --exclude=*
      OUTPUT_VARIABLE commit ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  endif()
  if(NOT commit)
    set(commit unknown)
  endif()
  file(CONFIGURE OUTPUT "${OUTPUT}" CONTENT "#define GSD_COMMIT \"${commit}\"\n")
  return()
endif()

set(GSD_COMMIT_SCRIPT "${CMAKE_CURRENT_LIST_FILE}")

function(gsd_commit target)
  set(dir "${CMAKE_CURRENT_BINARY_DIR}/commit")
  add_custom_target(
    ${target}_commit
    COMMAND ${CMAKE_COMMAND} "-DSOURCE=${PROJECT_SOURCE_DIR}" "-DOUTPUT=${dir}/gsd_commit.h" -P "${GSD_COMMIT_SCRIPT}"
    BYPRODUCTS "${dir}/gsd_commit.h"
    COMMENT "Looking at the commit"
    VERBATIM)
  add_dependencies(${target} ${target}_commit)
  target_include_directories(${target} PRIVATE "${dir}")
endfunction()
