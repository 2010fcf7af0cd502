"""Draw a network as SVG: a box for each layer, as wide as its maps, from the images at the top to the classes."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgcls.models import Layer, NetworkSummary

WIDTH = 480  # drawn at about its own size on a phone, so that the text stays readable
CENTRE = 205
NARROWEST, WIDEST = 150, 270
GAP = 12
COLOURS = {
    "Conv2d": "#1e88e5",
    "Linear": "#fb8c00",
    "MaxPool2d": "#78909c",
    "Pooling": "#78909c",
    "LocalResponseNorm": "#c0a000",
    "BasicBlock": "#00897b",
    "Bottleneck": "#00897b",
    "Inception": "#8e24aa",
    "AuxHead": "#fb8c00",
}
BRANCH_WIDTH = WIDEST / 4 - 3


def draw_network(network: "NetworkSummary", rows: "Sequence[Layer]") -> str:
    """Return an SVG of `rows` in one line of HTML; its text takes the colour of the page, light or dark."""
    images = f"{network.image_size}×{network.image_size}×{network.channels}"
    parts: list[str] = []
    y = 26.0
    parts.append(_text(CENTRE, 16, f"images {images}", bold=True))
    heads = [row for row in rows if row.training_only]
    heads_or_blocks = heads or any(row.kind in ("BasicBlock", "Bottleneck") for row in rows)
    for row in rows:
        if row.training_only:
            continue
        parts.append(f'<path d="M{CENTRE} {y - 4} V{y + GAP - 2}" stroke="currentColor" stroke-opacity=".5"/>')
        y += GAP
        height = _height(row)
        parts += _box(row, y, height, largest=network.image_size)
        if row.name in ("inception4a", "inception4d") and heads:
            head = heads.pop(0)
            parts.append(_head(head, y + height))
        y += height + 4
    parts.append(_text(CENTRE, y + 14, f"{network.num_classes:,} classes", bold=True))
    # What has neither shortcuts nor heads at its left is drawn larger.
    left = 0 if heads_or_blocks else 55
    label = f"{network.arch}: {len(rows)} steps from images of {images} to {network.num_classes} classes"
    return (
        f'<svg class="network" role="img" aria-label="{escape(label)}" viewBox="{left} 0 {WIDTH - left} {y + 24:.0f}" '
        f'xmlns="http://www.w3.org/2000/svg" font-size="12" fill="currentColor">{"".join(parts)}</svg>'
    )


def _height(row: "Layer") -> int:
    if row.kind == "Inception":
        return 58
    return 36 if row.kind in ("BasicBlock", "Bottleneck") else 20


def _box(row: "Layer", y: float, height: int, *, largest: int) -> list[str]:
    side = row.shape[1] if len(row.shape) == 3 else 1
    width = NARROWEST + (WIDEST - NARROWEST) * math.sqrt(side / largest)
    is_block = row.kind in ("BasicBlock", "Bottleneck", "Inception")
    if is_block or sum(map(len, row.inside)) > 18:
        width = WIDEST
    colour = COLOURS[row.kind]
    left = CENTRE - width / 2
    radius = 9 if row.kind == "Linear" else 3
    parts = [
        f'<rect x="{left:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height}" rx="{radius}" '
        f'fill="{colour}" fill-opacity=".22" stroke="{colour}"/>'
    ]
    if row.kind == "Inception":
        parts.append(_text(CENTRE, y + 13, _title(row)))
        parts += _branches(row, y + 19)
    elif is_block:
        parts += [_text(CENTRE, y + 14, _title(row)), _text(CENTRE, y + 29, row.inside[0])]
        parts.append(_shortcut(left, y, height, dashed=row.projection, colour=colour))
    else:
        times = f" · ×{row.repeats}" if row.repeats > 1 else ""
        parts.append(_text(CENTRE, y + 14, f"{_title(row)} · {row.inside[0]}{times}"))
    parts.append(_text(CENTRE + WIDEST / 2 + 10, y + height / 2 + 4, row.shape_text, anchor="start"))
    return parts


def _title(row: "Layer") -> str:
    first, _, last = row.name.partition(" to ")
    short = {"MaxPool2d": "pool", "Pooling": "pool", "LocalResponseNorm": "norm", "Conv2d": "conv", "Linear": "full"}
    numbered = any(part.isdigit() for part in first.split("."))
    name = short[row.kind] if row.kind in short and (numbered or row.kind not in ("Conv2d", "Linear")) else first
    if row.kind in ("BasicBlock", "Bottleneck") and last:
        name = f"{first} to {last.rpartition('.')[2]} · ×{row.repeats}"
    return name


def _branches(row: "Layer", y: float) -> list[str]:
    parts = []
    for number, branch in enumerate(row.inside):
        x = CENTRE - WIDEST / 2 + 3 + number * (BRANCH_WIDTH + 2)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.0f}" width="{BRANCH_WIDTH:.1f}" height="34" rx="2" fill="{COLOURS["Conv2d"]}" '
            f'fill-opacity=".18" stroke="{COLOURS["Conv2d"]}" stroke-opacity=".6"/>'
        )
        steps = branch.split(" → ")
        for line, step in enumerate(steps):
            height = y + (21 if len(steps) == 1 else 14 + 14 * line)
            parts.append(_text(x + BRANCH_WIDTH / 2, height, step))
    return parts


def _shortcut(left: float, y: float, height: int, *, dashed: bool, colour: str) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    top, bottom, out = y - GAP / 2 + 1, y + height + 3, left - 22
    return (
        f'<path d="M{CENTRE} {top:.0f} H{out + 8:.0f} Q{out:.0f} {top:.0f} {out:.0f} {top + 8:.0f} V{bottom - 8:.0f} '
        f'Q{out:.0f} {bottom:.0f} {out + 8:.0f} {bottom:.0f} H{CENTRE}" fill="none" stroke="{colour}" '
        f'stroke-width="1.5"{dash}/>'
    )


def _head(head: "Layer", y: float) -> str:
    colour = COLOURS["AuxHead"]
    return (
        f'<path d="M{CENTRE} {y + 3:.0f} H48" fill="none" stroke="{colour}" stroke-dasharray="3 3"/>'
        f'<rect x="2" y="{y - 8:.0f}" width="46" height="22" rx="9" '
        f'fill="{colour}" fill-opacity=".22" stroke="{colour}"/>' + _text(25, y + 7, head.name)
    )


def _text(x: float, y: float, text: str, *, anchor: str = "middle", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
