#!/bin/bash
# Builds every fuzz/*_fuzz.cc (CMake preset `fuzz`, clang) and runs each for the given seconds
# (default 20), a few at a time. Usage: scripts/fuzz.sh [SECONDS [TARGET...]]
#
# Seeds come from fuzz/corpus/<target>, options such as a dictionary from fuzz/<target>.dict; inputs
# found on the way are kept in build/fuzz/corpus/<target> for the next run. Prints one line per
# target; exit code 1, with the input that reproduces it, when a target fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
seconds=${1:-20}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "fuzz: expected seconds per target, found '$seconds'" >&2; exit 1; }
shift $(($# > 0))
targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
  for source in fuzz/*_fuzz.cc; do targets+=("$(basename "$source" .cc)"); done
fi
for target in "${targets[@]}"; do
  [[ -f fuzz/$target.cc ]] || { echo "fuzz: expected fuzz/$target.cc, found no such file" >&2; exit 1; }
done

out=build/fuzz
mkdir -p "$out"
if ! { cmake --preset fuzz && cmake --build --preset fuzz -j "${JOBS:-$(nproc)}" --target "${targets[@]}"; } \
    > "$out/build.log" 2>&1; then
  tail -n 40 "$out/build.log" >&2
  echo "fuzz: the targets do not build, see $out/build.log" >&2
  exit 1
fi

# Runs one target; its line on stdout, status 1 when an input broke it.
run_target() {
  local target=$1 log=$out/$1.log corpus=$out/corpus/$1 artifacts=$out/artifacts/$1 rc=0
  mkdir -p "$corpus" "$artifacts"
  # The time in front marks which artifacts are this run's.
  local prefix
  prefix=$artifacts/$(date +%Y%m%d-%H%M%S)-
  local dirs=("$corpus") options=()
  [[ -d fuzz/corpus/$target ]] && dirs+=("fuzz/corpus/$target")
  [[ -f fuzz/$target.dict ]] && options+=("-dict=fuzz/$target.dict")
  "$out/$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=65536 \
    -print_final_stats=1 -artifact_prefix="$prefix" "${options[@]}" "${dirs[@]}" > "$log" 2>&1 || rc=$?
  local runs rate
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
  if [[ $rc -eq 0 ]]; then
    printf 'fuzz: %-20s %10s runs %8s runs/s  ok\n' "$target" "${runs:-?}" "${rate:-?}"
    return 0
  fi
  local reproducer
  reproducer=$(find "$artifacts" -type f -path "$prefix*" | head -n 1)
  printf 'fuzz: %-20s %10s runs %8s runs/s  FAILED (exit code %s): %s\n' "$target" "${runs:-?}" \
    "${rate:-?}" "$rc" "$(grep -m 1 -E 'SUMMARY|ERROR|runtime error|check failed' "$log")"
  if [[ -n $reproducer ]]; then
    echo "fuzz: reproduce with: $out/$target $reproducer"
  else
    echo "fuzz: no input was written, see $log"
  fi
  return 1
}

limit=${JOBS:-$(nproc)}
failed=0
running=0
for target in "${targets[@]}"; do
  if ((running >= limit)); then
    wait -n || failed=1
    running=$((running - 1))
  fi
  run_target "$target" &
  running=$((running + 1))
done
while ((running > 0)); do
  wait -n || failed=1
  running=$((running - 1))
done
exit "$failed"
