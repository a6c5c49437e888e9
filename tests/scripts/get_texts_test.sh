#!/bin/bash
# get_texts.sh and unpack_texts.py: a wrong package is refused with one clear line, exit code 1 and
# nothing left behind; a right data file gives its lines. Needs no network.
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

# expect_refusal NAME EXPECTED_TEXT COMMAND...: exit code 1, one line that holds the text, no file.
expect_refusal() {
  local name=$1 text=$2 rc left
  shift 2
  rm -rf "$PHASOR_CACHE"
  mkdir -p "$PHASOR_CACHE/texts"
  "$@" > "$work/out" 2>&1
  rc=$?
  [[ $rc -eq 1 ]] || fail "$name: expected exit code 1, found $rc"
  [[ $(wc -l < "$work/out") -eq 1 ]] || fail "$name: expected one line, found: $(cat "$work/out")"
  grep -qF -- "$text" "$work/out" || fail "$name: expected '$text', found: $(cat "$work/out")"
  left=$(find "$PHASOR_CACHE" -type f -o -name '.*' | head -3)
  [[ -z "$left" ]] || fail "$name: left behind: $left"
}

# Data files as R writes them: a good one with two novels, and damaged ones.
python3 - "$work" << 'PY'
import struct, sys, zlib
i32 = lambda *v: struct.pack(f">{len(v)}i", *v)
string = lambda s: i32(0x40009, len(s)) + s
head = b"X\n" + i32(3, 0x40201, 0x30500, 5) + b"UTF-8"
vector = lambda lines: head + i32(0x10, len(lines)) + b"".join(string(s) for s in lines)
record = lambda c: i32(len(c)) + zlib.compress(c)
def write(name, data):
    open(f"{sys.argv[1]}/{name}.rdb", "wb").write(data)
novel = vector([b"EMMA", b"", b"By Jane Austen"])
write("good", record(novel) + record(vector([b"MANSFIELD PARK", b"(1814)"])))
write("short", record(novel)[:-9])
write("size", i32(len(novel) + 1) + zlib.compress(novel))
write("bomb", i32(40) + zlib.compress(bytes(1 << 24)))
write("list", record(head + i32(0x13, 0)))
write("title", record(vector([b"../../evil"])))
write("lines", record(novel[:-20]))
PY
unpack() { python3 "$root/scripts/unpack_texts.py" "$work/$1.rdb" "$PHASOR_CACHE/texts"; }

expect_refusal "cut short" "expected a record of" unpack short
expect_refusal "wrong size" "expected a record of" unpack size
expect_refusal "more than announced" "expected a record of 40 bytes" unpack bomb
expect_refusal "not a character vector" "expected a character vector (0x10), found 0x13" unpack list
expect_refusal "a title that is a path" "expected the title of a novel" unpack title
expect_refusal "lines that end early" "expected" unpack lines
expect_refusal "absent file" "No such file" unpack absent

unpack good || fail "good data file refused"
[[ "$(ls "$PHASOR_CACHE/texts")" == $'emma.txt\nmansfield_park.txt' ]] ||
  fail "good data file: found $(ls "$PHASOR_CACHE/texts")"
[[ "$(< "$PHASOR_CACHE/texts/emma.txt")" == $'EMMA\n\nBy Jane Austen' ]] || fail "emma: other lines"

# Packages: damaged, without the data, and with other novels than the pinned ones.
head -c 300 /dev/urandom > "$work/noise.deb"
expect_refusal "no package" "expected a Debian package" "$root/scripts/get_texts.sh" \
  --deb "$work/noise.deb"
expect_refusal "absent package" "absent.deb" "$root/scripts/get_texts.sh" --deb "$work/absent.deb"
if command -v dpkg-deb > /dev/null; then
  mkdir -p "$work/tree/DEBIAN"
  printf 'Package: t\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n' \
    > "$work/tree/DEBIAN/control"
  dpkg-deb -b "$work/tree" "$work/empty.deb" > /dev/null
  expect_refusal "package without data" "found no such file" "$root/scripts/get_texts.sh" \
    --deb "$work/empty.deb"
  mkdir -p "$work/tree/usr/lib/R/site-library/janeaustenr/data"
  cp "$work/good.rdb" "$work/tree/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
  dpkg-deb -b "$work/tree" "$work/other.deb" > /dev/null
  expect_refusal "other novels" "expected the novels with the sums" "$root/scripts/get_texts.sh" \
    --deb "$work/other.deb"
fi

[[ $failures -eq 0 ]] && echo "get_texts: all refusals clear"
exit $((failures > 0))
