#!/usr/bin/env python3
"""Draws decode time by depth as an SVG, from rows of compare.py: plot.py results.json > out.svg"""
import json
import math
import re
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 70, 250, 40, 50
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#7d3c98", "#b9770e", "#117a65", "#566573", "#ca6f1e")


def points_of(rows):
    """{engine: [(depth, milliseconds per token)]} of all decode measures, medians."""
    lines = {}
    for row in rows:
        match = re.fullmatch(r"tg\d+(?: @ d(\d+))?", row["measure"])
        if match:
            depth = int(match.group(1) or 0)
            lines.setdefault(row["engine"], []).append((depth, 1e3 / row["median_ts"]))
    return {engine: sorted(points) for engine, points in lines.items()}


def ticks(low, high):
    """1, 2 and 5 times powers of ten that cover [low, high]."""
    out, power = [], 10 ** math.floor(math.log10(low))
    while True:
        for factor in (1, 2, 5):
            if out and out[-1] >= high:
                return out
            if factor * power * 2.5 > low:
                out.append(factor * power)
        power *= 10


def decode_by_depth(rows, title):
    """SVG text. Depths are spaced evenly, as they mostly double; time is logarithmic."""
    lines = points_of(rows)
    depths = sorted({depth for points in lines.values() for depth, _ in points})
    times = [ms for points in lines.values() for _, ms in points]
    if not times:
        return "<svg xmlns='http://www.w3.org/2000/svg'/>\n"
    marks = ticks(min(times), max(times))
    span = math.log(marks[-1] / marks[0]) or 1.0

    def x(depth):
        step = (WIDTH - LEFT - RIGHT) / max(1, len(depths) - 1)
        return LEFT + step * depths.index(depth)

    def y(ms):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(ms / marks[0]) / span

    out = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' "
           "font-family='sans-serif' font-size='12'>",
           f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
           f"<text x='{LEFT}' y='22' font-size='14'>{escape(title)}: decode, milliseconds per "
           "token</text>"]
    for mark in marks:
        out.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y(mark):.1f}' y2='{y(mark):.1f}' "
                   "stroke='#ddd'/>")
        out.append(f"<text x='{LEFT - 8}' y='{y(mark) + 4:.1f}' text-anchor='end'>{mark:g}</text>")
    for depth in depths:
        out.append(f"<text x='{x(depth):.1f}' y='{HEIGHT - BOTTOM + 18}' text-anchor='middle'>"
                   f"{depth}</text>")
    out.append(f"<text x='{(LEFT + WIDTH - RIGHT) / 2}' y='{HEIGHT - 12}' text-anchor='middle'>"
               "tokens in the cache</text>")
    for index, (engine, points) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x(depth):.1f},{y(ms):.1f}" for depth, ms in points)
        width = 3 if engine.startswith("phasor") else 1.5
        out.append(f"<polyline points='{path}' fill='none' stroke='{colour}' "
                   f"stroke-width='{width}'/>")
        for depth, ms in points:
            out.append(f"<circle cx='{x(depth):.1f}' cy='{y(ms):.1f}' r='3' fill='{colour}'/>")
        row = TOP + 18 * index
        out.append(f"<line x1='{WIDTH - RIGHT + 15}' x2='{WIDTH - RIGHT + 40}' y1='{row}' "
                   f"y2='{row}' stroke='{colour}' stroke-width='{width}'/>")
        out.append(f"<text x='{WIDTH - RIGHT + 46}' y='{row + 4}'>{escape(engine)}</text>")
    return "\n".join(out + ["</svg>"]) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as results:
        found = json.load(results)
    print(decode_by_depth(found["rows"], found["model"]), end="")
