# gsd_find_system_llama(): looks for an installed libllama 0.7 or newer (Debian 14, Homebrew, a source build) and leaves
# the result in llama_FOUND. Builds of llama.cpp from before its version 0.7 call themselves 0.0.BUILD and are not taken.
macro(gsd_find_system_llama)
  find_package(llama 0.7 CONFIG QUIET)
  if(NOT llama_FOUND)
    find_package(llama 1 CONFIG QUIET)
  endif()
  if(llama_FOUND)
    # It asks for a standard of C, which CMake refuses in a project that has C++ only.
    set_target_properties(llama PROPERTIES INTERFACE_COMPILE_FEATURES "")
  endif()
endmacro()
