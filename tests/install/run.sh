#!/bin/bash
# Installs a build into a temporary folder and uses it from a project of its own:
#   tests/install/run.sh BUILD_FOLDER VERSION
set -euo pipefail
build=$1 version=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
cmake -S "$here" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_PREFIX_PATH="$work/prefix" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
cmake --build "$work/build" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }

found=$("$work/build/print_version")
[[ "$found" == "$version not_found" ]] || {
  echo "install: expected '$version not_found', found '$found'" >&2
  exit 1
}
found=$("$work/prefix/bin/phasor" --version)
[[ "$found" == *"$version"* ]] || {
  echo "install: phasor --version: expected $version, found '$found'" >&2
  exit 1
}
# No path of the build folder may be needed once installed.
if grep -rlF "$build" "$work/prefix/lib" --include='*.cmake'; then
  echo "install: the package files above name the build folder" >&2
  exit 1
fi
echo "install: $version"
