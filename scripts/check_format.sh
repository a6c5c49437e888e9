#!/bin/bash
# Checks every source file against .clang-format with the pinned version; --fix rewrites them.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=clang-format-14
if ! command -v $tool > /dev/null; then
  echo "format: expected $tool (scripts/setup.sh test installs it), found none" >&2
  exit 1
fi
# Tracked files and new ones that are not ignored; without git (an unpacked archive), all of them.
mapfile -t files < <(
  { git ls-files --cached --others --exclude-standard -- '*.h' '*.cc' 2> /dev/null ||
    find include src apps tests fuzz bench docs -name '*.h' -o -name '*.cc'; } |
    while read -r file; do [[ -f $file ]] && echo "$file"; done
)
[[ ${#files[@]} -gt 0 ]] || { echo "format: found no source files" >&2; exit 1; }
if [[ "${1:-}" == --fix ]]; then
  $tool -i "${files[@]}"
  exit 0
fi
if ! printf '%s\0' "${files[@]}" | xargs -0 -n 16 -P "$(nproc)" $tool --dry-run -Werror; then
  echo "format: the files above differ from .clang-format; make format rewrites them" >&2
  exit 1
fi
echo "format: ${#files[@]} files"
