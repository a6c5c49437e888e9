# One test program per folder that holds *_test.cc files; every gtest case becomes a ctest case.
# A file named *_slow_test.cc goes into a program of its own with the ctest label `slow`.
find_package(GTest REQUIRED)
include(GoogleTest)

function(phasor_add_test_program name label)
  add_executable(${name} ${ARGN})
  target_include_directories(${name} PRIVATE src apps ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE phasor phasor_flags fmt::fmt nlohmann_json::nlohmann_json
                        PkgConfig::PCRE2 hwy::hwy CLI11::CLI11 GTest::gtest
                        GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE PHASOR_SOURCE_DIR="${CMAKE_CURRENT_SOURCE_DIR}")
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 DISCOVERY_MODE PRE_TEST
                       PROPERTIES LABELS "${label}" TIMEOUT 600)
endfunction()

file(GLOB_RECURSE PHASOR_TEST_SOURCES CONFIGURE_DEPENDS src/*_test.cc tests/*_test.cc
     apps/*_test.cc)
list(FILTER PHASOR_TEST_SOURCES EXCLUDE REGEX "/tests/install/")
set(PHASOR_TEST_DIRS "")
foreach(source ${PHASOR_TEST_SOURCES})
  get_filename_component(dir ${source} DIRECTORY)
  list(APPEND PHASOR_TEST_DIRS ${dir})
endforeach()
list(REMOVE_DUPLICATES PHASOR_TEST_DIRS)
foreach(dir ${PHASOR_TEST_DIRS})
  file(RELATIVE_PATH rel ${CMAKE_CURRENT_SOURCE_DIR} ${dir})
  string(REPLACE "/" "_" name ${rel})
  set(fast "")
  set(slow "")
  foreach(source ${PHASOR_TEST_SOURCES})
    get_filename_component(source_dir ${source} DIRECTORY)
    if(source_dir STREQUAL dir)
      if(source MATCHES "_slow_test\\.cc$")
        list(APPEND slow ${source})
      else()
        list(APPEND fast ${source})
      endif()
    endif()
  endforeach()
  if(fast)
    phasor_add_test_program(${name}_test unit ${fast})
    if(rel MATCHES "^apps/")
      target_link_libraries(${name}_test PRIVATE phasor_commands)
    endif()
  endif()
  if(slow)
    phasor_add_test_program(${name}_slow_test slow ${slow})
  endif()
endforeach()

# The worked example of docs/adding_a_method.md: compiled and tested like the real thing.
file(GLOB PHASOR_EXAMPLE_SOURCES CONFIGURE_DEPENDS docs/examples/*.cc)
if(PHASOR_EXAMPLE_SOURCES)
  phasor_add_test_program(docs_examples_test unit ${PHASOR_EXAMPLE_SOURCES})
endif()

# The checks of the house, as tests so that ctest counts them.
find_program(PHASOR_PYTHON python3 REQUIRED)
function(phasor_add_house_test name)
  add_test(NAME house.${name} COMMAND ${ARGN} WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
  set_tests_properties(house.${name} PROPERTIES LABELS house TIMEOUT 600)
endfunction()
phasor_add_house_test(layers ${PHASOR_PYTHON} scripts/check_layers.py)
phasor_add_house_test(sizes ${PHASOR_PYTHON} scripts/check_sizes.py)
phasor_add_house_test(docs ${PHASOR_PYTHON} scripts/check_docs.py)
phasor_add_house_test(format ${CMAKE_CURRENT_SOURCE_DIR}/scripts/check_format.sh)
phasor_add_house_test(checks_catch ${PHASOR_PYTHON} tests/scripts/house_checks_test.py)
phasor_add_house_test(get_model ${CMAKE_CURRENT_SOURCE_DIR}/tests/scripts/get_model_test.sh)
phasor_add_house_test(get_texts ${CMAKE_CURRENT_SOURCE_DIR}/tests/scripts/get_texts_test.sh)
if(NOT PHASOR_SANITIZE)
  phasor_add_house_test(install ${CMAKE_CURRENT_SOURCE_DIR}/tests/install/run.sh
                        ${CMAKE_BINARY_DIR} ${PROJECT_VERSION})
endif()
phasor_add_house_test(fuzz ${CMAKE_CURRENT_SOURCE_DIR}/scripts/fuzz.sh 10)
# The fuzzers have a build folder of their own and keep every core busy.
set_tests_properties(house.fuzz PROPERTIES LABELS fuzz RUN_SERIAL ON)

include(cmake/cli_tests.cmake)
