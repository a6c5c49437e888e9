#!/bin/bash
# Draws perplexity by position for every schedule of a report of `phasor eval schedules --save`.
#
#   bench/plot_schedules.sh build/quality/schedules.json docs/schedules.svg   needs gnuplot-nox
set -euo pipefail
report=${1:?plot_schedules: expected REPORT.json OUTPUT.svg}
output=${2:?plot_schedules: expected REPORT.json OUTPUT.svg}
command -v gnuplot > /dev/null || {
  echo "plot_schedules: expected gnuplot, found none; it is in the package gnuplot-nox" >&2
  exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One data block per schedule: bucket, its name, perplexity.
python3 - "$report" > "$work/data" << 'PY'
import json, sys
def name(n):
    return f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else str(n)
for run in json.load(open(sys.argv[1]))["results"]:
    if "refused" in run:
        continue
    factor = f' ({run["factor"]:g})' if run["factor"] != 1 else ""
    print(f'"{run["method"]}{factor}"')
    for i, row in enumerate(run["by_position"]):
        print(i, f'"{name(row["from"])}-{name(row["to"])}"', row["ppl"])
    print("\n")
PY
trained=$(python3 -c 'import json, sys
report = json.load(open(sys.argv[1]))
rows = next(r for r in report["results"] if "refused" not in r)["by_position"]
print(sum(row["to"] <= report["trained_context"] for row in rows) - 0.5)' "$report")
cat > "$work/plot" << 'PLOT'
set terminal svg size 860,520 font "sans,13" background "white"
set output output
set title "Perplexity by position, schedules put on the model as it is (extension factor)"
set xlabel "position in tokens; the line is the end of the trained context"
set ylabel "perplexity"
set logscale y
set format y "%g"
set grid ytics lc rgb "#dddddd"
set key outside right noenhanced
set xtics noenhanced
set arrow from trained, graph 0 to trained, graph 1 nohead lc rgb "#888888" dt 2
# Eight colours; from the ninth schedule on they come again, dashed and with squares.
plot for [i=0:blocks-1] data index i using 1:3:xtic(2) with linespoints lt i%8+1 lw 2 ps 0.6 \
     dt 1+i/8 pt 7-2*(i/8) title columnheader(1)
PLOT
blocks=$(grep -c '^"' "$work/data")
gnuplot -e "blocks=$blocks; trained=$trained; data='$work/data'; output='$work/plot.svg'" \
  "$work/plot"
mv "$work/plot.svg" "$output"
