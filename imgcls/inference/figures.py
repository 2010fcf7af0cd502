"""Pictures of images and filters, drawn with Pillow: contact sheets, first filters, heat maps."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (30, 30, 30), (255, 255, 255)
GOOD, BAD = (20, 120, 60), (190, 40, 40)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class CaptionedImage(NamedTuple):
    """An image (H, W, C) uint8 and the lines below it: text, and whether it is good news, bad news or neither."""

    pixels: np.ndarray
    lines: Sequence[tuple[str, bool | None]]


def contact_sheet(items: Sequence[CaptionedImage], *, columns: int | None = None, thumbnail: int = 200) -> Image.Image:
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
