#!/bin/bash
# clang-tidy (pinned) over src/ and apps/, or over the files given.
set -euo pipefail
cd "$(dirname "$0")/.."
# The compile commands of the tests cover the library and the program as well.
scripts/build.sh release
if [[ $# -gt 0 ]]; then patterns=("$@"); else patterns=("$PWD/src/" "$PWD/apps/"); fi
run-clang-tidy-14 -clang-tidy-binary clang-tidy-14 -p build/release -quiet \
  -j "${JOBS:-$(nproc)}" "${patterns[@]}"
