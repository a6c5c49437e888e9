#!/bin/bash
# Compiles depth_bench.cc against an existing build of llama.cpp or ik_llama.cpp and prints the
# program's path. Some seconds; a second call only compiles again when something changed.
#
#   bench/peers/build_depth_bench.sh path/to/ik_llama.cpp/build
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=${1:?"expected the build folder of llama.cpp or ik_llama.cpp"}
if [[ ! -f $build/CMakeCache.txt ]]; then
  echo "peers: $build: expected a CMake build folder, found no CMakeCache.txt" >&2
  exit 1
fi
build=$(cd "$build" && pwd)
source=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$build/CMakeCache.txt")
folder=${PHASOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/phasor}/peers/depth-bench
mkdir -p "$folder"
program=$folder/$(echo "$build" | cksum | cut -d' ' -f1)

mapfile -t libraries < <(find "$build" \( -name 'libllama.a' -o -name 'libllama.so' \
  -o -name 'libggml*.a' -o -name 'libggml*.so' \) | sort)
if [[ ${#libraries[@]} -eq 0 ]]; then
  echo "peers: $build: expected libllama, found none; build the target llama-bench first" >&2
  exit 1
fi
newest=$(ls -t "$here/depth_bench.cc" "${libraries[@]}" | head -n 1)
if [[ -x $program && $program -nt $newest ]]; then
  echo "$program"
  exit 0
fi
rpath=()
for library in "${libraries[@]}"; do
  if [[ $library == *.so ]]; then rpath+=("-Wl,-rpath,$(dirname "$library")"); fi
done
temporary=$program.tmp-$$
if ! "${CXX:-g++}" -std=c++20 -O2 -fopenmp -I "$source/include" -I "$source/ggml/include" \
  "$here/depth_bench.cc" -Wl,--start-group "${libraries[@]}" -Wl,--end-group "${rpath[@]}" \
  -lpthread -ldl -o "$temporary" >&2; then
  rm -f "$temporary"
  echo "peers: depth_bench.cc does not compile against $source" >&2
  exit 1
fi
mv "$temporary" "$program"
echo "$program"
