# Tests that an outside project can use the installed package: installs this build into a scratch folder, then
# configures, builds and runs examples/consumer against it, and examples/generate.c against the C API.
set(scratch "${PROJECT_BINARY_DIR}/consumer")
set(flags "")
if(GSD_SANITIZE)
  set(flags "-fsanitize=${GSD_SANITIZE}")
endif()
set(consumer_args "${PROJECT_SOURCE_DIR}/models/toy-target.gguf" "${PROJECT_SOURCE_DIR}/models/toy-draft.gguf" "# tar")

add_test(NAME consumer.install COMMAND ${CMAKE_COMMAND} --install "${PROJECT_BINARY_DIR}" --prefix "${scratch}/prefix")
add_test(
  NAME consumer.build
  COMMAND
    ${CMAKE_CTEST_COMMAND} --build-and-test "${PROJECT_SOURCE_DIR}/examples/consumer" "${scratch}/build"
    --build-generator "${CMAKE_GENERATOR}" --build-noclean
    --build-options "-DCMAKE_PREFIX_PATH=${scratch}/prefix" "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}"
    "-DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}" "-DCMAKE_CXX_FLAGS=${flags}"
    --test-command "${scratch}/build/consumer" ${consumer_args})
set_tests_properties(consumer.install PROPERTIES FIXTURES_SETUP gsd_installed)
set_tests_properties(consumer.build PROPERTIES FIXTURES_REQUIRED gsd_installed LABELS model TIMEOUT 300)
if(TARGET gsd_capi AND TARGET gsd AND NOT GSD_SANITIZE)
  add_test(NAME capi.installed
           COMMAND "${PROJECT_SOURCE_DIR}/tests/capi_test.sh" "${scratch}/prefix" "${PROJECT_SOURCE_DIR}" $<TARGET_FILE:gsd>
                   "${CMAKE_CXX_COMPILER}")
  set_tests_properties(capi.installed PROPERTIES FIXTURES_REQUIRED gsd_installed LABELS model RUN_SERIAL ON TIMEOUT 300)
endif()
