# gsd_add_prefix_llama(dir): gsd_dep::llama from the libraries in `dir`: the private prefix of deps/setup.sh, or the copy of
# them in an installed tree. Installed beside gsdConfig.cmake, so that an outside consumer's programs get the same link
# options.
#
# This libllama needs a newer C library than the system's. A program that links it is therefore started by the loader in
# `dir` and finds every library there:
#   --dynamic-linker        the loader itself, an absolute path
#   --disable-new-dtags     DT_RPATH instead of DT_RUNPATH: it also serves the libraries' own dependencies
#   --no-as-needed          libllama has a RUNPATH of its own, which switches our DT_RPATH off for what it needs; those
#                           libraries (libm, libgomp, libstdc++, ggml) are thus loaded by the program itself
#   --version-script        templates of the C++ library that a program holds (std::regex of an older g++, say) would take the
#                           place of libllama's own, which were made by another compiler
#   --allow-shlib-undefined the linker sees the system's C library, which lacks the newer symbols
# Everything stands in link options rather than link libraries, so that CMake does not manage the RPATH and an installed
# program keeps it. A program with the property GSD_RELOCATABLE gets neither loader nor RPATH: it must be given an RPATH
# relative to itself, and something else must start it with the loader (cmake/launcher.sh.in).
function(gsd_add_prefix_llama dir)
  if(NOT EXISTS "${dir}/libllama.so.0")
    message(FATAL_ERROR "The libllama that gsd was built with is no longer in ${dir}; "
                        "run deps/setup.sh in the checkout of gsd, or install gsd, again.")
  endif()
  if(dir MATCHES "[,:;\"$]")
    message(FATAL_ERROR "The path ${dir} holds a character that linker options cannot carry (, : ; \" $); "
                        "move it to a folder without it.")
  endif()
  file(GLOB loader "${dir}/ld-linux-*.so.*")

  set(libraries "")
  foreach(name libllama.so.0 libggml.so.0 libggml-base.so.0 libgomp.so.1 libm.so.6)
    string(APPEND libraries " \"${dir}/${name}\"")
  endforeach()
  set(program "$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>")
  set(relocatable "$<BOOL:$<TARGET_PROPERTY:GSD_RELOCATABLE>>")
  set(map "$<TARGET_PROPERTY:GSD_PROGRAM_MAP>") # of a test that lends some symbols
  add_library(gsd_dep::llama INTERFACE IMPORTED GLOBAL)
  set_target_properties(
    gsd_dep::llama
    PROPERTIES INTERFACE_LINK_DEPENDS "${dir}/libllama.so.0"
               INTERFACE_LINK_OPTIONS
               "LINKER:--disable-new-dtags;LINKER:--allow-shlib-undefined;\
$<${program}:LINKER:--version-script,$<IF:$<BOOL:${map}>,${map},${CMAKE_CURRENT_FUNCTION_LIST_DIR}/program.map>>;\
$<$<NOT:${relocatable}>:LINKER:--dynamic-linker,${loader};LINKER:-rpath,${dir}>;\
SHELL:-Wl,--push-state,--no-as-needed ${libraries} -lstdc++ -Wl,--pop-state")
endfunction()
