#!/bin/bash
# Builds with AVX-512 emulated and runs the unit tests that compare CPU levels: scripts/avx512.sh
#
# For CPUs with AVX2 and no AVX-512. Kernels for AVX-512 are compiled against plain implementations
# of its intrinsics (src/simd/avx512_emulation.h), which are tested first. Tests of parsers, the
# engine and the program are not run: they have no code of their own at this level. Logs:
# build/avx512-emulated/*.log. GTEST_FILTER of the caller, where set, takes the place of the one
# below. Needs `scripts/setup.sh avx512` (`make avx512` calls it).
set -uo pipefail
cd "$(dirname "$0")/.." || exit
start=$SECONDS
folder=build/avx512-emulated

programs=(src_simd_test src_ops_test src_attention_test src_kvcodec_test tests_contract_test)
scripts/build.sh avx512-emulated "${programs[@]}" || exit

# The levels of this build, as the names of tests with the level for a parameter give them.
levels=$($folder/src_ops_test --gtest_list_tests |
  sed -nE 's|^  AnyShapeMatchesDoubleAndTouchesNothingElse/([a-z0-9_]+).*|\1|p' | paste -sd ' ')
if [[ $levels != "scalar avx2 avx512_vnni avx512" ]]; then
  echo "avx512: expected the levels 'scalar avx2 avx512_vnni avx512', found '$levels'"
  exit 1
fi
echo "avx512: levels $levels, the last two emulated"

run() {
  local program=$1 begin=$SECONDS
  local log=build/avx512-emulated/$program.log
  "build/avx512-emulated/$program" > "$log" 2>&1 < /dev/null
  local rc=$?
  local passed skipped
  passed=$(sed -nE 's/^\[  PASSED  \] ([0-9]+) tests?\.$/\1/p' "$log")
  skipped=$(grep -c '^\[  SKIPPED \] .* (' "$log")
  if [[ $rc -eq 0 && ${passed:-0} -gt 0 ]]; then
    echo "avx512: $program: $passed passed, $skipped skipped, $((SECONDS - begin)) s"
    return 0
  fi
  grep -E '^\[  FAILED  \]' "$log" | sort -u
  tail -n 3 "$log"
  echo "avx512: $program: FAILED, exit code $rc, $log"
  return 1
}
export -f run

rc=0
printf '%s\n' "${programs[@]}" | xargs -P "${JOBS:-$(nproc)}" -L 1 bash -c 'run "$0"' || rc=1
echo "avx512: $([[ $rc -eq 0 ]] && echo passed || echo FAILED), $((SECONDS - start)) s in all"
exit $rc
