# PHASOR_EMULATE_AVX512: kernels for AVX-512 on a CPU with AVX2 (src/simd/avx512_emulation.h), for
# tests. `make avx512` builds and runs them.
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  message(FATAL_ERROR "PHASOR_EMULATE_AVX512 needs g++ on x86-64")
endif()
find_path(PHASOR_SIMDE_INCLUDE simde/x86/avx512.h)
if(NOT PHASOR_SIMDE_INCLUDE)
  message(FATAL_ERROR "PHASOR_EMULATE_AVX512 needs SIMDe (Debian: libsimde-dev)")
endif()
target_include_directories(phasor_flags SYSTEM INTERFACE ${PHASOR_SIMDE_INCLUDE})
target_compile_definitions(phasor_flags INTERFACE PHASOR_EMULATE_AVX512)
# Vectors of 64 bytes are passed in memory where AVX-512 is not switched on. Nothing here is called
# with them from code that was compiled otherwise.
file(GLOB_RECURSE PHASOR_AVX512_SOURCES CONFIGURE_DEPENDS src/*avx512*.cc src/*amx*.cc apps/bench/*.cc)
set_source_files_properties(${PHASOR_AVX512_SOURCES} PROPERTIES COMPILE_OPTIONS -Wno-psabi)
