#!/bin/bash
# Draws mean KL by depth for every cache type of a report of `phasor eval kld --save`.
#
#   bench/plot_quality.sh build/quality/f32.json docs/quality.svg      needs gnuplot (gnuplot-nox)
set -euo pipefail
report=${1:?plot_quality: expected REPORT.json OUTPUT.svg}
output=${2:?plot_quality: expected REPORT.json OUTPUT.svg}
command -v gnuplot > /dev/null || {
  echo "plot_quality: expected gnuplot, found none; it is in the package gnuplot-nox" >&2
  exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One data block per cache type: depth bucket, its name, mean KL. What equals the base has no curve.
python3 - "$report" > "$work/data" << 'PY'
import json, sys
for run in json.load(open(sys.argv[1]))["results"]:
    if run["mean_kl"] <= 0:
        continue
    bits = run["page_bits_per_element"]
    print(f'"K {run["type_k"]}, V {run["type_v"]} ({bits:.2f} bits)"')
    for i, row in enumerate(run["by_depth"]):
        print(i, f'"{row["depth"]}"', row["mean_kl"])
    print("\n")
PY
cat > "$work/plot" << 'PLOT'
set terminal svg size 860,520 font "sans,13" background "white"
set output output
set title "Mean KL divergence from an f16 cache, by depth"
set xlabel "depth in tokens"
set ylabel "mean KL (nats)"
set logscale y
set format y "%g"
set grid ytics lc rgb "#dddddd"
set key below maxrows 5 noenhanced
set xtics noenhanced
plot for [i=0:blocks-1] data index i using 1:3:xtic(2) with linespoints lw 2 pt 7 ps 0.6 \
     title columnheader(1)
PLOT
blocks=$(grep -c '^"K ' "$work/data")
gnuplot -e "blocks=$blocks; data='$work/data'; output='$work/plot.svg'" "$work/plot"
mv "$work/plot.svg" "$output"
