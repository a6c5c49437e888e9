# One libFuzzer program per fuzz/<name>_fuzz.cc.
#
# The parsers need nothing above src/formats/ but the span files of src/store/, so only those are
# compiled here, with coverage: a short fuzz run is part of `make test` and must not compile the whole
# library a second time.
file(GLOB_RECURSE PHASOR_PARSER_SOURCES CONFIGURE_DEPENDS src/base/*.cc src/tensor/*.cc
     src/formats/*.cc src/store/hash.cc src/store/span.cc src/store/span_header.cc
     src/store/span_file.cc)
list(FILTER PHASOR_PARSER_SOURCES EXCLUDE REGEX "_(test|bench)\\.cc$")
add_library(phasor_parsers STATIC ${PHASOR_PARSER_SOURCES})
target_include_directories(phasor_parsers PUBLIC include src)
target_compile_options(phasor_parsers PUBLIC -fsanitize=fuzzer-no-link)
target_link_libraries(phasor_parsers PUBLIC phasor_flags Threads::Threads fmt::fmt
                      nlohmann_json::nlohmann_json PkgConfig::PCRE2 PkgConfig::XXHASH
                      PkgConfig::UTF8PROC)

foreach(target phasor phasor_commands phasor_cli)
  if(TARGET ${target})
    set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
endforeach()

file(GLOB PHASOR_FUZZ_SOURCES CONFIGURE_DEPENDS fuzz/*_fuzz.cc)
foreach(source ${PHASOR_FUZZ_SOURCES})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_libraries(${name} PRIVATE phasor_parsers)
endforeach()
