# gsd_find_system_llama(): looks for an installed libllama 0.7 or newer (Debian 14, Homebrew, a source build) and leaves
# the result in llama_FOUND.
macro(gsd_find_system_llama)
  find_package(llama 0.7 CONFIG QUIET)
  if(NOT llama_FOUND)
    # An upstream build may lack the version file that find_package reads, and 1.0 would not count as 0.7 or newer: ask the
    # package itself. Builds from before 0.7 call themselves 0.0.BUILD.
    foreach(gsd_config IN LISTS llama_CONSIDERED_CONFIGS)
      file(STRINGS "${gsd_config}" gsd_version REGEX "^set\\(LLAMA_VERSION ")
      string(REGEX MATCH "[0-9.]+" gsd_version "${gsd_version}")
      if(gsd_version VERSION_GREATER_EQUAL 0.7)
        get_filename_component(gsd_config "${gsd_config}" DIRECTORY)
        find_package(llama CONFIG QUIET PATHS "${gsd_config}" NO_DEFAULT_PATH)
        set(llama_VERSION ${gsd_version})
        break()
      endif()
    endforeach()
  endif()
  if(llama_FOUND)
    # It asks for a standard of C, which CMake refuses in a project that has C++ only.
    set_target_properties(llama PROPERTIES INTERFACE_COMPILE_FEATURES "")
  endif()
endmacro()
