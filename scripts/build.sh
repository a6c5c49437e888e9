#!/bin/bash
# Configures when needed and builds:
# scripts/build.sh run|release|debug|asan|tsan|fuzz|neon|avx512-emulated
#
# `run` and `release` share the folder build/release: `run` builds only the program, `release` the
# tests as well. Tests, once switched on in that folder, stay on, so that going back and forth
# recompiles nothing and configures nothing. `neon` and `avx512-emulated` take the targets to build
# as further arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-}
case "$preset" in
  run) folder=build/release; targets=(--target phasor_cli) ;;
  neon | avx512-emulated) folder=build/$preset; targets=(--target "${@:2}") ;;
  release | debug | asan | tsan | fuzz) folder=build/$preset; targets=() ;;
  *)
    echo "build: expected run, release, debug, asan, tsan, fuzz, neon or avx512-emulated, found" \
      "'$preset'" >&2
    exit 2
    ;;
esac

needs_configure() {
  [[ -f $folder/build.ninja && -f $folder/.configured ]] || return 0
  # Ninja follows the CMake files by itself, but not the presets.
  [[ CMakePresets.json -nt $folder/.configured ]] && return 0
  [[ $preset == release ]] && ! grep -q '^PHASOR_BUILD_TESTS:BOOL=ON' "$folder/CMakeCache.txt"
}

start=$SECONDS
if needs_configure; then
  mkdir -p "$folder"
  if ! cmake --preset "$preset" > "$folder/configure.log" 2>&1 < /dev/null; then
    cat "$folder/configure.log" >&2
    echo "build: cmake --preset $preset failed" >&2
    exit 1
  fi
  touch "$folder/.configured"
  echo "build: configured $folder"
fi

# Ninja's own progress line on a terminal; elsewhere every 25th line, warnings and errors.
build=(cmake --build "$folder" -j "${JOBS:-$(nproc)}" "${targets[@]}")
if [[ -t 1 ]]; then
  "${build[@]}"
else
  "${build[@]}" 2>&1 < /dev/null | awk '
    /^\[[0-9]+\/[0-9]+\]/ {
      split(substr($1, 2), n, /[\/\]]/)
      if (n[1] > 0 && (n[1] % 25 == 0 || n[1] == n[2])) { print; fflush() }
      next
    }
    /^ninja: no work to do/ { next }
    { print; fflush() }'
fi
seconds=$((SECONDS - start))
[[ $seconds -gt 1 ]] && echo "build: $preset done in $seconds s"
exit 0
