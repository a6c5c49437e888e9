# One Google Benchmark program per src/**/*_bench.cc, in the build folder: <name>_bench.
find_package(benchmark REQUIRED)
file(GLOB_RECURSE PHASOR_BENCH_SOURCES CONFIGURE_DEPENDS src/*_bench.cc)
foreach(source ${PHASOR_BENCH_SOURCES})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_include_directories(${name} PRIVATE src)
  target_link_libraries(${name} PRIVATE phasor phasor_flags fmt::fmt hwy::hwy benchmark::benchmark)
endforeach()
