# gsd_add_prefix_llama(prefix): gsd_dep::llama from the private prefix of deps/setup.sh. Installed beside gsdConfig.cmake,
# so that an outside consumer's programs get the same link options.
#
# libllama of the prefix needs a newer C library than the system's. A program that links it is therefore started by the
# prefix's own loader and finds every library there:
#   --dynamic-linker        the loader itself, an absolute path
#   --disable-new-dtags     DT_RPATH instead of DT_RUNPATH: it also serves the libraries' own dependencies
#   --no-as-needed          libllama has a RUNPATH of its own, which switches our DT_RPATH off for what it needs; those
#                           libraries (libm, libgomp, libstdc++, ggml) are thus loaded by the program itself
#   --allow-shlib-undefined the linker sees the system's C library, which lacks the newer symbols
# Everything stands in link options rather than link libraries, so that CMake does not manage the RPATH and an installed
# program keeps it.
function(gsd_add_prefix_llama prefix)
  file(GLOB libllama "${prefix}/usr/lib/*/libllama.so.0")
  if(NOT libllama)
    message(FATAL_ERROR "The libllama that gsd was built with is no longer in ${prefix}; "
                        "run deps/setup.sh in the checkout of gsd again.")
  endif()
  if(prefix MATCHES "[,:;\"$]")
    message(FATAL_ERROR "The path ${prefix} holds a character that linker options cannot carry (, : ; \" $); "
                        "move the checkout to a folder without it.")
  endif()
  get_filename_component(dir "${libllama}" DIRECTORY)
  file(GLOB loader "${dir}/ld-linux-*.so.*")

  set(libraries "")
  foreach(name libllama.so.0 libggml.so.0 libggml-base.so.0 libgomp.so.1 libm.so.6)
    string(APPEND libraries " \"${dir}/${name}\"")
  endforeach()
  add_library(gsd_dep::llama INTERFACE IMPORTED GLOBAL)
  set_target_properties(
    gsd_dep::llama
    PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${prefix}/usr/include"
               INTERFACE_LINK_DEPENDS "${libllama}"
               INTERFACE_LINK_OPTIONS
               "LINKER:--dynamic-linker,${loader};LINKER:--disable-new-dtags,-rpath,${dir};LINKER:--allow-shlib-undefined;\
SHELL:-Wl,--push-state,--no-as-needed ${libraries} -lstdc++ -Wl,--pop-state")
endfunction()
