#!/bin/bash
# Draws the two pictures of docs/positions.md: three pairs of a key before and after a move, and the
# ledger of a text that was edited.
#
#   bench/plot_positions.sh [MODEL TEXT [FOLDER]]      needs gnuplot (gnuplot-nox)
#
# Without arguments: the default model, a novel of `make texts`, docs/.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${PHASOR_CACHE:-$HOME/.cache/phasor}
model=${1:-$(scripts/get_model.sh --path)}
text=${2:-$cache/texts/emma.txt}
folder=${3:-docs}
phasor=build/release/phasor
for needed in "$model" "$text" "$phasor"; do
  [[ -e $needed ]] || {
    echo "plot_positions: expected $needed, found none; make build, make model, make texts" >&2
    exit 1
  }
done
command -v gnuplot > /dev/null || {
  echo "plot_positions: expected gnuplot, found none; it is in the package gnuplot-nox" >&2
  exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# 1. A key at position p, pair j: angle phi + p omega_j. Moved by d: all angles of the pair grow by
# d omega_j.
python3 - > "$work/pairs" << 'PY'
import math
head_dim, base, shift = 64, 10000.0, 6
for j in (2, 6, 12):
    omega = base ** (-2 * j / head_dim)
    for kind, moved in (("read", 0), ("moved", shift)):
        print(f'"pair {j}: {shift * omega:.2f} rad"')
        for p in range(5):
            angle = 0.4 + (p + moved) * omega
            radius = 0.8 + 0.05 * p
            print(0, 0, radius * math.cos(angle), radius * math.sin(angle))
        print("\n")
PY
cat > "$work/pairs.plot" << 'PLOT'
set terminal svg size 860,330 font "sans,13" background "white"
set output output
set multiplot layout 1,3 title "Five tokens as read (grey) and moved by 6 positions (blue): one angle per pair"
set size ratio -1
set xrange [-1.15:1.15]
set yrange [-1.15:1.15]
unset xtics; unset ytics; set border 0
set key off
set object 1 circle at 0,0 size 1 fc rgb "#dddddd"
do for [i=0:2] {
  name = word("2 6 12", i + 1)
  set title "pair ".name
  plot data index 2*i using 1:2:3:4 with vectors lw 2 lc rgb "#999999", \
       data index 2*i+1 using 1:2:3:4 with vectors lw 2 lc rgb "#1f77b4"
}
unset multiplot
PLOT
gnuplot -e "data='$work/pairs'; output='$work/pairs.svg'" "$work/pairs.plot"

# 2. The ledger.
head -c 6000 "$text" > "$work/text"
"$phasor" edit "$work/document.phs" -m "$model" -c 4096 --read "$work/text" \
  -e "erase 300:420" -e "move 640:860 160" -e "insert 500 Here is something new. " \
  --ledger --json -q > "$work/ledger.json"
python3 - "$work/ledger.json" > "$work/ledger" << 'PY'
import json, sys
pieces = json.load(open(sys.argv[1]))["ledger"]
for kind in ("codes", "rows"):
    print(f'"{kind}"')
    for p in pieces:
        if p["in"] == kind:
            print(p["stands_at"], p["read_at"], p["n_tokens"], p["n_tokens"])
    print("\n")
PY
cat > "$work/ledger.plot" << 'PLOT'
set terminal svg size 860,460 font "sans,13" background "white"
set output output
set title "A text after erase 300:420, move 640:860 160, insert 500: every piece keeps the angles it was read with"
set xlabel "where it stands now (position)"
set ylabel "where it was read (position)"
set grid lc rgb "#dddddd"
set key top left
plot data index 0 using 1:2:3:4 with vectors nohead lw 5 lc rgb "#1f77b4" title "pages of codes", \
     data index 1 using 1:2:3:4 with vectors nohead lw 5 lc rgb "#ff7f0e" title "16-bit rows", \
     x with lines dt 2 lc rgb "#999999" title "never moved"
PLOT
gnuplot -e "data='$work/ledger'; output='$work/ledger.svg'" "$work/ledger.plot"
mv "$work/pairs.svg" "$folder/positions_turn.svg"
mv "$work/ledger.svg" "$folder/positions_ledger.svg"
