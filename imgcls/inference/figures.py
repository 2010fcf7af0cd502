"""Pictures, drawn with Pillow alone: a confusion matrix, images with their predictions, curves, filters."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST_NAMED = 40  # classes in a confusion matrix: their names can still be read
INK, FAINT, PAPER = (30, 30, 30), (205, 205, 205), (255, 255, 255)
GOOD, BAD = (20, 120, 60), (190, 40, 40)
# Okabe & Ito 2008: told apart by all kinds of eyes.
LINES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def check_picture_file(option: str, file: Path) -> None:
    """Make the folder of the picture that `option` asks for, before there is one.

    Raises:
        ValueError: the suffix is of no kind of picture, or the folder cannot be made.
    """
    known = Image.registered_extensions()
    if known.get(file.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{option}={file}: the suffix says what to write; use {file.with_suffix('.png').name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option}={file}: its folder cannot be made ({error.strerror})") from error


def confusion_matrix(counts: np.ndarray, names: Sequence[str], *, size: int = 900) -> Image.Image:
    """Draw counts (K, K), rows the true class, columns the predicted, each row as shares of its class.

    Classes that neither occur nor are predicted are left out; of more than 40, those are drawn that are confused most.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = most_confused(counts, MOST_NAMED)
    title = (
        "predicted" if len(shown) == np.count_nonzero(_occurring(counts)) else "predicted (the most confused classes)"
    )
    counts, shares = counts[np.ix_(shown, shown)], shares[np.ix_(shown, shown)]
    named = [names[int(k)] for k in shown]
    num = len(shown)
    cell = max(1, size // max(1, num))
    text = font(max(10, min(16, cell - 2)))
    margin = 60 + max((round(text.getlength(name)) for name in named), default=0)
    side = cell * num
    image = Image.new("RGB", (margin + side + 30, margin + side + 30), PAPER)
    draw = ImageDraw.Draw(image)
    # The square root shows the few confusions beside the many hits.
    depth = np.sqrt(shares)[..., None]
    colours = (255 + depth * (np.array([8, 48, 107]) - 255)).astype(np.uint8)
    image.paste(Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST), (margin, margin))
    draw.rectangle((margin - 1, margin - 1, margin + side, margin + side), outline=INK)
    label = font(18)
    draw.text((margin + side / 2, 8), title, INK, font=label, anchor="mt")
    _paste_rotated(image, "true", label, centre=(16, margin + side // 2))
    for i, name in enumerate(named):
        middle = margin + i * cell + cell // 2
        draw.text((margin - 8, middle), name, INK, font=text, anchor="rm")
        _paste_rotated(image, name, text, bottom=(middle, margin - 8))
    if num <= 20 and cell >= 30:
        for i in range(num):
            for j in range(num):
                if counts[i, j]:
                    colour = PAPER if shares[i, j] > 0.25 else INK
                    place = (margin + j * cell + cell // 2, margin + i * cell + cell // 2)
                    draw.text(place, str(int(counts[i, j])), colour, font=text, anchor="mm")
    return image


def most_confused(counts: np.ndarray, most: int) -> np.ndarray:
    """Classes that occur in counts (K, K), ascending; where they are more than `most`, those of the most frequent
    confusions, pair by pair."""
    occurring = np.flatnonzero(_occurring(counts))
    if len(occurring) <= most:
        return occurring
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    chosen: dict[int, None] = {}
    for place in np.argsort(-(wrong + wrong.T), axis=None, kind="stable"):
        pair = [k for k in divmod(int(place), len(counts)) if k not in chosen]
        if len(chosen) + len(pair) > most or not wrong.flat[place] + wrong.T.flat[place]:
            break
        chosen |= dict.fromkeys(pair)
    # Few or no confusions: the rest in their order.
    rest = [int(k) for k in occurring if int(k) not in chosen][: most - len(chosen)]
    return np.array(sorted([*chosen, *rest]))


def _occurring(counts: np.ndarray) -> np.ndarray:
    return (counts.sum(axis=0) + counts.sum(axis=1)) > 0


def _paste_rotated(
    image: Image.Image,
    text: str,
    face: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    *,
    centre: tuple[int, int] | None = None,
    bottom: tuple[int, int] | None = None,
) -> None:
    _, _, width, height = face.getbbox(text)
    strip = Image.new("RGB", (math.ceil(width) + 2, math.ceil(height) + 4), PAPER)
    ImageDraw.Draw(strip).text((1, 1), text, INK, font=face)
    strip = strip.rotate(90, expand=True)
    if centre is not None:
        image.paste(strip, (centre[0] - strip.width // 2, centre[1] - strip.height // 2))
    elif bottom is not None:
        image.paste(strip, (bottom[0] - strip.width // 2, bottom[1] - strip.height))


class Captioned(NamedTuple):
    """An image (H, W, C) uint8 and the lines below it: text, and whether it is good news, bad news or neither."""

    pixels: np.ndarray
    lines: Sequence[tuple[str, bool | None]]


def contact_sheet(items: Sequence[Captioned], *, columns: int | None = None, thumbnail: int = 200) -> Image.Image:
    """Lay images out in a grid, each with its lines of text, cut where they are too long."""
    columns = columns or max(1, min(6, math.ceil(math.sqrt(len(items)))))
    text = font(13)
    line_height, gap = 17, 12
    num_lines = max((len(item.lines) for item in items), default=0)
    width, height = thumbnail + gap, thumbnail + gap + num_lines * line_height + 4
    rows = math.ceil(len(items) / columns)
    page = Image.new("RGB", (columns * width + gap, rows * height + gap), PAPER)
    draw = ImageDraw.Draw(page)
    for i, item in enumerate(items):
        left, top = gap + (i % columns) * width, gap + (i // columns) * height
        picture = to_image(item.pixels)
        scale = thumbnail / max(picture.size)
        shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(shape, Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.BICUBIC)
        page.paste(picture, (left + (thumbnail - picture.width) // 2, top + (thumbnail - picture.height) // 2))
        for number, (line, good) in enumerate(item.lines):
            colour = INK if good is None else GOOD if good else BAD
            draw.text(
                (left, top + thumbnail + 3 + number * line_height), shortened(line, text, thumbnail), colour, font=text
            )
    return page


def shortened(line: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut the middle out of a line that is wider than `width` pixels; its end often holds the number."""
    if face.getlength(line) <= width:
        return line
    for keep in range(len(line) - 1, 1, -1):
        cut = f"{line[: keep - keep // 2]}…{line[len(line) - keep // 2 :]}"
        if face.getlength(cut) <= width:
            return cut
    return "…"


def to_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, 1 or 3) uint8 to an RGB image."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).convert("RGB")


def filter_grid(weights: np.ndarray, *, zoom: int | None = None) -> Image.Image:
    """Draw the kernels of a first convolution (N, 1 or 3, H, W) in a grid, each stretched to its own range."""
    num, _, height, width = weights.shape
    zoom = zoom or max(1, round(56 / max(height, width)))
    columns = math.ceil(math.sqrt(num * 1.5))
    rows = math.ceil(num / columns)
    page = Image.new("RGB", (columns * (width * zoom + 4) + 4, rows * (height * zoom + 4) + 4), PAPER)
    for i, kernel in enumerate(weights):
        low, high = float(kernel.min()), float(kernel.max())
        pixels = ((kernel - low) / max(high - low, 1e-12) * 255).astype(np.uint8).transpose(1, 2, 0)
        tile = to_image(pixels).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        page.paste(tile, (4 + (i % columns) * (width * zoom + 4), 4 + (i // columns) * (height * zoom + 4)))
    return page


def heat_overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a map (h, w) in 0..1 over an image (H, W, C) uint8: blue where it is low, red where it is high."""
    height, width = pixels.shape[:2]
    stretched = Image.fromarray((heat * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    value = np.asarray(stretched)[..., None].astype(np.float64) / 255
    # Blue, cyan, green, yellow, red, as such maps are drawn since Selvaraju et al. 2017.
    colour = np.clip(1.5 - np.abs(4 * value - np.array([3.0, 2.0, 1.0])), 0, 1) * 255
    return (0.55 * np.broadcast_to(pixels, (height, width, 3)) + 0.45 * colour).astype(np.uint8)


class Curve(NamedTuple):
    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def draw_curves(panels: Sequence[tuple[str, Sequence[Curve]]], *, x_name: str = "epoch") -> Image.Image:
    """Draw panels of curves side by side, each with axes of its own and a legend."""
    width, height = 640, 440
    # Drawn at twice the size and shrunk, lines come out smooth.
    pages = [_panel(title, lines, x_name, width * 2, height * 2) for title, lines in panels]
    page = Image.new("RGB", (2 * width * len(pages), 2 * height), PAPER)
    for i, panel in enumerate(pages):
        page.paste(panel, (2 * width * i, 0))
    return page.resize((width * len(pages), height), Image.Resampling.LANCZOS)


def _panel(title: str, lines: Sequence[Curve], x_name: str, width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    text, heading = font(24), font(30)
    left, top, right, bottom = 120, 70, width - 40, height - 90
    xs = [x for line in lines for x in line.xs]
    ys = [y for line in lines for y in line.ys if math.isfinite(y)]
    draw.text(((left + right) / 2, 16), title, INK, font=heading, anchor="mt")
    draw.text(((left + right) / 2, height - 8), x_name, INK, font=text, anchor="mb")
    if not xs or not ys:
        draw.text(((left + right) / 2, (top + bottom) / 2), "nothing yet", INK, font=heading, anchor="mm")
        return image
    x_ticks, y_ticks = ticks(min(0.0, *xs), max(xs)), ticks(min(ys), max(ys))
    x0, x1, y0, y1 = x_ticks[0], max(x_ticks[-1], max(xs)), y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - x0) / (x1 - x0) * (right - left), bottom - (y - y0) / (y1 - y0) * (bottom - top)

    for x in x_ticks:
        at = place(x, y0)[0]
        draw.line((at, top, at, bottom), FAINT, width=1)
        draw.text((at, bottom + 10), f"{x:g}", INK, font=text, anchor="mt")
    for y in y_ticks:
        at = place(x0, y)[1]
        draw.line((left, at, right, at), FAINT, width=1)
        draw.text((left - 12, at), f"{y:g}", INK, font=text, anchor="rm")
    draw.rectangle((left, top, right, bottom), outline=INK, width=2)
    for line, colour in zip(lines, _colours(len(lines)), strict=True):
        points = [place(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
        if len(points) > 1:
            draw.line(points, colour, width=4, joint="curve")
        if len(points) <= 30:
            for x, y in points:
                draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour)
    _legend(draw, lines, text, right=right, top=top, bottom=bottom, place=place)
    return image


def _legend(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[Curve],
    text: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    *,
    right: int,
    top: int,
    bottom: int,
    place: Callable[[float, float], tuple[float, float]],
) -> None:
    width = max(text.getlength(line.name) for line in lines) + 80
    tall = 34 * len(lines) + 16
    points = [place(x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
    inside = [y for x, y in points if x > right - width - 12]
    # Where the curves are not: losses fall, accuracies rise.
    low = sum(y > bottom - tall - 12 for y in inside) < sum(y < top + tall + 12 for y in inside)
    x, y = right - width - 12, (bottom - tall - 12) if low else (top + 12)
    draw.rectangle((x, y, x + width, y + tall), fill=PAPER, outline=FAINT)
    for number, (line, colour) in enumerate(zip(lines, _colours(len(lines)), strict=True)):
        at = y + 8 + 34 * number + 17
        draw.line((x + 12, at, x + 56, at), colour, width=5)
        draw.text((x + 68, at), line.name, INK, font=text, anchor="lm")


def _colours(num: int) -> list[tuple[int, int, int]]:
    return [LINES[i % len(LINES)] for i in range(num)]


def ticks(low: float, high: float, *, about: int = 6) -> list[float]:
    """Round numbers, evenly spaced, from at or below `low` to at or above `high`."""
    if high <= low:
        low, high = min(0.0, low), max(0.0, high)
        high = high if high > low else 1.0
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
