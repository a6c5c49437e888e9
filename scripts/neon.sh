#!/bin/bash
# Builds for 64-bit ARM and runs the unit tests that compare CPU levels, under qemu-user: scripts/neon.sh
#
# Twice: as a CPU with sdot and udot (levels scalar, neon, neon_dot) and as one without (scalar and
# neon; neon_dot must not be there). Tests of parsers, the engine and the program are not run: they
# have no code of their own on ARM, and qemu takes minutes for the kernels already. Logs:
# build/neon/*.log. GTEST_FILTER of the caller, where set, takes the place of the one below.
# Needs `scripts/setup.sh neon` and scripts/neon_libraries.sh (`make neon` calls both).
set -uo pipefail
cd "$(dirname "$0")/.." || exit
start=$SECONDS

programs=(src_simd_test src_ops_test src_kvcodec_test src_attention_test tests_contract_test)
# Left out: tests without kernels, statistics over so many pages that they take as long as all the
# others together, and attention with plain C++.
export GTEST_FILTER="${GTEST_FILTER:--*PolarGrid*:WidthAllocation.*:WidthPrice.*:FrameAllocation.*:*RoundedWeightsHaveNoBias*:*AttentionLevels*/scalar}"
scripts/build.sh neon phasor_cli "${programs[@]}" || exit

emulate() {
  local cpu=$1
  shift
  qemu-aarch64 -cpu "$cpu" -L /usr/aarch64-linux-gnu "$@"
}

# The levels a CPU runs, as the names of tests with the level for a parameter give them.
levels_of() {
  emulate "$1" build/neon/src_ops_test --gtest_list_tests |
    sed -nE 's|^  AnyShapeMatchesDoubleAndTouchesNothingElse/([a-z0-9_]+).*|\1|p' | paste -sd ' '
}

run() {
  local cpu=$1 program=$2 begin=$SECONDS
  local log=build/neon/$program.$cpu.log
  emulate "$cpu" "build/neon/$program" > "$log" 2>&1 < /dev/null
  local rc=$?
  local passed skipped
  passed=$(sed -nE 's/^\[  PASSED  \] ([0-9]+) tests?\.$/\1/p' "$log")
  skipped=$(grep -c '^\[  SKIPPED \] .* (' "$log")
  if [[ $rc -eq 0 && ${passed:-0} -gt 0 ]]; then
    echo "neon: $cpu $program: $passed passed, $skipped skipped, $((SECONDS - begin)) s"
    return 0
  fi
  grep -E '^\[  FAILED  \]' "$log" | sort -u
  tail -n 3 "$log"
  echo "neon: $cpu $program: FAILED, exit code $rc, $log"
  return 1
}
export -f emulate run

rc=0
for pair in "max:scalar neon neon_dot" "cortex-a53:scalar neon"; do
  cpu=${pair%%:*} expected=${pair#*:}
  found=$(levels_of "$cpu")
  if [[ $found != "$expected" ]]; then
    echo "neon: $cpu: expected the levels '$expected', found '$found'"
    rc=1
  else
    echo "neon: $cpu: levels $found"
  fi
done
version=$(emulate max build/neon/phasor --version < /dev/null) || rc=1
echo "neon: the program starts: $version"

{
  for cpu in max cortex-a53; do
    for program in "${programs[@]}"; do echo "$cpu $program"; done
  done
} | xargs -P "${JOBS:-$(nproc)}" -L 1 bash -c 'run "$0" "$1"' || rc=1
echo "neon: $([[ $rc -eq 0 ]] && echo passed || echo FAILED), $((SECONDS - start)) s in all"
exit $rc
