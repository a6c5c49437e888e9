#!/bin/bash
# Builds and runs every test that fits. Exit code: that of ctest.
#
# Left out, and said so: label `huge` (hours or tens of gigabytes), and label `slow` when the default
# model is not in the cache folder (`make test` gets it first).
set -uo pipefail
cd "$(dirname "$0")/.." || exit
start=$SECONDS

scripts/build.sh release || exit
scripts/build.sh fuzz || exit

left_out=(huge)
model=$(scripts/get_model.sh --path)
if [[ ! -f $model ]]; then
  left_out+=(slow)
  echo "test: no default model at $model, so the tests labelled slow are left out"
fi
pattern="^($(IFS='|' && echo "${left_out[*]}"))$"

ctest --test-dir build/release --output-on-failure --no-tests=error -j "${JOBS:-$(nproc)}" \
  -LE "$pattern" < /dev/null
rc=$?

n_left=$(ctest --test-dir build/release -N -L "$pattern" | sed -n 's/^Total Tests: //p')
echo "test: left out: ${n_left:-0} tests (labels: ${left_out[*]})"
echo "test: $((SECONDS - start)) s in all, ctest's exit code $rc"
exit $rc
