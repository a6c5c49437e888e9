# Toolchain for 64-bit ARM on a Debian 12 of another kind: g++-aarch64-linux-gnu, the libraries that
# scripts/neon_libraries.sh unpacks, and qemu-user to run what was built. Used by the preset `neon`.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

get_filename_component(phasor_neon_root "${CMAKE_CURRENT_LIST_DIR}/../build/neon-root" ABSOLUTE)
set(CMAKE_FIND_ROOT_PATH "${phasor_neon_root}" /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${phasor_neon_root}")
set(ENV{PKG_CONFIG_LIBDIR} "${phasor_neon_root}/usr/lib/aarch64-linux-gnu/pkgconfig")

# -L: where the loader and the C and C++ libraries are.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu)
