"""A chart as SVG inside a page: its colours follow the page's, light or dark, and it prints sharp."""

import math
from collections.abc import Sequence
from typing import NamedTuple

# Okabe & Ito 2008, as in the charts of plot.py; each can be told from the others with any kind of colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 34


class Line(NamedTuple):
    """A line through the points (x, mean), in a band from low to high where several runs are drawn as one."""

    name: str
    xs: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


def svg_chart(title: str, lines: Sequence[Line], *, x_name: str = "epoch") -> str:
    """Return a chart of the lines; values that are not finite are left out."""
    values = [y for line in lines for y in [*line.lows, *line.highs] if math.isfinite(y)]
    if not values:
        return ""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    most = max((x for line in lines for x in line.xs), default=0.0) or 1.0

    def place(x: float, y: float) -> str:
        across = LEFT + x / most * (WIDTH - LEFT - RIGHT)
        down = TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">']
    for y in _ticks(low, high):
        down = place(0, y).split(",")[1]
        parts.append(f'<path class="grid" d="M{LEFT} {down}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down}" dy="4" text-anchor="end">{y:g}</text>')
    for x in _ticks(0, most):
        across = place(x, low).split(",")[0]
        parts.append(f'<text x="{across}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 2}" text-anchor="middle">{x_name}</text>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        dash = "" if number < len(COLOURS) else ' stroke-dasharray="5 3"'
        points = [point for point in zip(*line[1:], strict=True) if all(map(math.isfinite, point))]
        if any(below < above for _, _, below, above in points):
            edge = [place(x, above) for x, _, _, above in points] + [place(x, y) for x, _, y, _ in points[::-1]]
            parts.append(f'<polygon points="{" ".join(edge)}" fill="{colour}" opacity="0.18"/>')
        if not points:
            continue
        path = " ".join(place(x, y) for x, y, _, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        across, down = place(points[-1][0], points[-1][1]).split(",")
        parts.append(f'<circle cx="{across}" cy="{down}" r="3" fill="{colour}"/>')
    return "".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Return three to eight round numbers from low to high."""
    rough = (high - low) / 7
    size = 10 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough)
    first = math.ceil(low / step)
    return [round(step * number, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]
