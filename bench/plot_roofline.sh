#!/bin/bash
# Draws the roofline of decode attention from a report of `phasor bench --attention --json`.
#
#   build/release/phasor bench --attention --groups 1,4,8 --json > build/attention.json
#   bench/plot_roofline.sh build/attention.json docs/roofline.svg [HEAD_SIZE]     needs python3 only
#
# x: bytes of cache per token and KV head. y: tokens per second of one thread. The sloping line is
# what memory delivers to a thread, the dashed ones what vpdpbusd alone could do; dots are streamed
# from memory, rings come from the L2 cache. HEAD_SIZE: 64 unless given.
set -euo pipefail
usage="plot_roofline: expected REPORT.json OUTPUT.svg [HEAD_SIZE]"
report=${1:?$usage}
output=${2:?$usage}
head_dim=${3:-64}
work=$(mktemp "$output.XXXXXX")
trap 'rm -f "$work"' EXIT
python3 - "$report" "$head_dim" > "$work" << 'PY'
import json
import math
import sys
from xml.sax.saxutils import escape

try:
    report = json.load(open(sys.argv[1]))
    rows = [r for r in report["results"] if r["head_dim"] == int(sys.argv[2])]
except (OSError, ValueError, KeyError, TypeError) as e:
    sys.exit(f"plot_roofline: expected a report of phasor bench --attention --json, found: {e}")
if not rows:
    sys.exit(f"plot_roofline: expected rows with head size {sys.argv[2]}, found none")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 540, 80, 130, 46, 60
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
groups = sorted({r["group"] for r in rows})
# Thread seconds per token are thread nanoseconds; memory is shared by the threads.
memory = report["read_gb_s"] * 1e9 / report["n_threads"]
ys = [1e9 / r[f] for r in rows for f in ("stream_ns", "cached_ns")]
ys += [1e9 / r["product_ns"] for r in rows if r["product_ns"] > 0]
xs = [r["bytes_per_token"] for r in rows]
x0, x1 = min(xs) / 1.25, max(xs) * 1.25
y0, y1 = min(ys) / 5, max(ys) * 1.5  # room for the names below


def px(x):
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / x0) / math.log(x1 / x0)


def py(y):
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(y / y0) / math.log(y1 / y0)


def text(x, y, words, anchor="middle", size=12, color="#222"):
    print(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
          f'fill="{color}">{escape(words)}</text>')


def line(xa, ya, xb, yb, color, dash=""):
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    print(f'<line x1="{xa:.1f}" y1="{ya:.1f}" x2="{xb:.1f}" y2="{yb:.1f}" stroke="{color}"{extra}/>')


def ticks(low, high):
    for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for m in (1, 2, 5):
            if low <= m * 10.0 ** e <= high:
                yield m * 10.0 ** e


print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
      f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">')
print(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
text((LEFT + WIDTH - RIGHT) / 2, 20, f'Decode attention, head size {rows[0]["head_dim"]}', size=15)
text((LEFT + WIDTH - RIGHT) / 2, 37,
     f'{report["cpu_info"]}, {report["cpu_level"]}, {report["n_threads"]} threads, '
     f'{report["read_gb_s"]:.1f} GB/s', size=11, color="#666")
for x in ticks(x0, x1):
    line(px(x), TOP, px(x), HEIGHT - BOTTOM, "#e4e4e4")
    text(px(x), HEIGHT - BOTTOM + 16, f"{x:g}")
for y in ticks(y0, y1):
    line(LEFT, py(y), WIDTH - RIGHT, py(y), "#e4e4e4")
    text(LEFT - 6, py(y) + 4, f"{y / 1e6:g} M", "end")
text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 22, "bytes of K and V per cached token and KV head")
print(f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" '
      'text-anchor="middle" font-size="12">tokens and KV heads per second and thread</text>')
# The part of the memory line inside the frame.
xa, xb = max(x0, memory / y1), min(x1, memory / y0)
if xa < xb:
    line(px(xa), py(memory / xa), px(xb), py(memory / xb), "#222")
    text(px(xb) - 4, py(memory / xb) + (16 if xb < x1 else -6), "memory", "end", 11)
for i, g in enumerate(groups):
    color = COLORS[i % len(COLORS)]
    mine = [r for r in rows if r["group"] == g]
    legend = TOP + 14 + 17 * i
    print(f'<circle cx="{WIDTH - RIGHT + 14}" cy="{legend - 4}" r="4" fill="{color}"/>')
    text(WIDTH - RIGHT + 24, legend, f"g = {g}", "start")
    if mine[0]["product_ns"] > 0:
        y = py(1e9 / mine[0]["product_ns"])
        line(LEFT, y, WIDTH - RIGHT, y, color, "6 4")
    for r in mine:
        x, dot, ring = (px(r["bytes_per_token"]), py(1e9 / r["stream_ns"]), py(1e9 / r["cached_ns"]))
        line(x, dot, x, ring, color)
        print(f'<circle cx="{x:.1f}" cy="{ring:.1f}" r="5" fill="white" stroke="{color}"/>')
        print(f'<circle cx="{x:.1f}" cy="{dot:.1f}" r="4" fill="{color}"/>')
# Names once, standing on end above the highest point; those of one size side by side.
columns = {}
for r in rows:
    columns.setdefault(r["bytes_per_token"], {})[f'{r["type_k"]}:{r["type_v"]}'] = 1
last = -math.inf
for size in sorted(columns):
    for name in columns[size]:
        last = max(px(size) + 4, last + 13)
        print(f'<text transform="translate({last:.1f} {HEIGHT - BOTTOM - 6}) rotate(-90)" '
              f'font-size="11" fill="#444">{escape(name)}</text>')
for i, words in enumerate(("dot: streamed", "ring: L2 cache", "dashed: byte", "products alone")):
    text(WIDTH - RIGHT + 10, TOP + 30 + 17 * len(groups) + 15 * i, words, "start", 11, "#666")
print("</svg>")
PY
chmod 644 "$work"
mv "$work" "$output"
