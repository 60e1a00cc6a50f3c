# gsd_embed(target file name): makes the bytes of `file` available to the sources of `target` as
#   #include "<name>.h"      // namespace gsd::app { inline constexpr unsigned char <name>[]; }
# The header is written again when the file changes. This file also runs as the script that writes it.
if(CMAKE_SCRIPT_MODE_FILE)
  file(READ "${INPUT}" bytes HEX)
  string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}") # 16 bytes a line
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  get_filename_component(file "${INPUT}" NAME)
  file(WRITE "${OUTPUT}" "// Made from ${file}.\n#pragma once\n\nnamespace gsd::app {\n"
                         "inline constexpr unsigned char ${NAME}[] = {\n${bytes}\n};\n}  // namespace gsd::app\n")
  return()
endif()

set(GSD_EMBED_SCRIPT "${CMAKE_CURRENT_LIST_FILE}")

function(gsd_embed target file name)
  get_filename_component(file "${file}" ABSOLUTE)
  set(dir "${CMAKE_CURRENT_BINARY_DIR}/embedded")
  add_custom_command(
    OUTPUT "${dir}/${name}.h"
    COMMAND ${CMAKE_COMMAND} "-DINPUT=${file}" "-DOUTPUT=${dir}/${name}.h" -DNAME=${name} -P "${GSD_EMBED_SCRIPT}"
    DEPENDS "${file}" "${GSD_EMBED_SCRIPT}"
    VERBATIM)
  target_sources(${target} PRIVATE "${dir}/${name}.h")
  target_include_directories(${target} PRIVATE "${dir}")
endfunction()
