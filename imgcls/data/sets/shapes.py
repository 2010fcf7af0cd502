"""The embedded default: ten classes of drawn figures in ImageNet's layout, made on first use.

Each image shows figures of one kind, large and bright, of random place, size and tilt, over a dark gradient with
clutter of any colour, noise, and JPEG's own damage. Images are of varied size and shape, and some are grayscale, as
ImageNet's are. A class has a hue, from which each figure's differs a little: an easy first level, on purpose. Deep
networks without batch normalisation, such as VGG-19, take a hundred steps on it to leave chance.
"""

import colorsys
import io
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from imgcls.data.sets.folder import open_folder
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import cache_folder, make_cache_folder, num_cores

log = logging.getLogger(__name__)
VERSION = "shapes-v3"  # name a new one whenever what is drawn changes: the cache is by name
NUM_TRAIN, NUM_VAL = 200, 50  # of each class
OVERSAMPLE = 2  # drawn larger, then reduced, for smooth edges
MOST_TILT = 0.3  # radians
MOST_TURN = 9  # degrees of the circle of hues, from the hue of a class
Draw = ImageDraw.ImageDraw
Points = list[tuple[float, float]]
Colour = tuple[int, int, int]


def open_shapes(root: str | None = None, *, channels: int = 3) -> ImageSet:
    """Open the drawn set, below `root` or the cache folder; it is drawn once, in seconds."""
    base = (Path(root).expanduser() if root else cache_folder()) / VERSION
    if not base.is_dir():
        if not root:
            make_cache_folder()
        draw_set(base)
    return open_folder(str(base), channels=channels)


def draw_set(base: Path) -> None:
    """Draw the set into `base`, which appears whole or not at all, whoever else is drawing it too."""
    started = time.monotonic()
    log.info("drawing the shapes set into %s (once)", base)
    base.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{base.name}-", dir=base.parent))
    try:
        jobs = []
        for label, name in enumerate(CLASSES):
            for part, count, first in (("train", NUM_TRAIN, 0), ("val", NUM_VAL, NUM_TRAIN)):
                (unfinished / part / name).mkdir(parents=True)
                for number in range(first, first + count):
                    jobs.append((unfinished / part / name / f"{name}_{number:04d}.JPEG", label, number))
        with ThreadPoolExecutor(num_cores()) as pool:
            for _ in pool.map(lambda job: job[0].write_bytes(draw_image(job[1], job[2])), jobs, chunksize=25):
                pass
        unfinished.chmod(0o755)  # mkdtemp's folders are for their owner alone
        try:
            unfinished.rename(base)
        except OSError:
            if not base.is_dir():  # else another process was first, with the same files
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    log.info("drew %d images in %.1f s", len(jobs), time.monotonic() - started)


def draw_image(label: int, number: int) -> bytes:
    """Image `number` of class `label`, as a JPEG file; the same for the same arguments."""
    rng = np.random.default_rng([label, number])
    width, height = (int(rng.integers(72, 129)) for _ in range(2))
    size = (width * OVERSAMPLE, height * OVERSAMPLE)
    image = _gradient(size, rng)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        _clutter(draw, size, rng)
    figure = list(CLASSES.values())[label]
    for centre, radius in _places(size, rng):
        figure(draw, centre, radius, rng.uniform(-MOST_TILT, MOST_TILT), _bright(label, rng), rng)
    for _ in range(int(rng.integers(0, 3))):
        _stroke(draw, size, rng, widest=0.02)

    image = image.reduce(OVERSAMPLE)
    noise = rng.normal(0, rng.uniform(2, 7), (height, width, 1)).astype(np.float32)
    image = Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.04:
        image = image.convert("L")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(60, 96)))
    return file.getvalue()


def _places(size: tuple[int, int], rng: np.random.Generator) -> list[tuple[tuple[float, float], float]]:
    # One to four centres and radii that do not overlap. They are large: a recipe's crop may keep a fifth of an image.
    places: list[tuple[tuple[float, float], float]] = []
    for _ in range(8):
        radius = min(size) * rng.uniform(0.3, 0.46)
        centre = rng.uniform(radius, size[0] - radius), rng.uniform(radius, size[1] - radius)
        if all(math.dist(centre, other) > 1.05 * (radius + far) for other, far in places):
            places.append((centre, radius))
    return places


def _polygon(corners: Callable[[], Points]) -> Callable[..., None]:
    unit = np.array(corners())

    def figure(draw: Draw, centre: tuple[float, float], radius: float, angle: float, colour: Colour, _: object) -> None:
        draw.polygon(_placed(unit, centre, radius, angle), fill=colour)

    return figure


def _placed(unit: np.ndarray, centre: tuple[float, float], radius: float, angle: float) -> Points:
    cos, sin = math.cos(angle), math.sin(angle)
    points = unit @ np.array([[cos, sin], [-sin, cos]]) * radius + centre
    return [(float(x), float(y)) for x, y in points]


def _on_circle(num: int, radius: float = 1.0, phase: float = 0.0) -> Points:
    return [
        (radius * math.cos(phase + 2 * math.pi * i / num), radius * math.sin(phase + 2 * math.pi * i / num))
        for i in range(num)
    ]


def _star() -> Points:
    outer, inner = _on_circle(5), _on_circle(5, 0.42, math.pi / 5)
    return [point for pair in zip(outer, inner, strict=True) for point in pair]


def _cross() -> Points:
    a, b = 0.3, 0.95
    return [(a, b), (a, a), (b, a), (b, -a), (a, -a), (a, -b), (-a, -b), (-a, -a), (-b, -a), (-b, a), (-a, a), (-a, b)]


def _crescent() -> Points:
    outer = [(math.cos(t), math.sin(t)) for t in np.linspace(0.6, 2 * math.pi - 0.6, 30)]
    inner = [(0.55 + 0.63 * math.cos(t), 0.63 * math.sin(t)) for t in np.linspace(2 * math.pi - 1.1, 1.1, 30)]
    return outer + inner


def _ring(
    draw: Draw, centre: tuple[float, float], radius: float, angle: float, colour: Colour, rng: np.random.Generator
) -> None:
    x, y = centre
    thick = max(2, int(radius * rng.uniform(0.2, 0.4)))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=thick)


def _disk(
    draw: Draw, centre: tuple[float, float], radius: float, angle: float, colour: Colour, rng: np.random.Generator
) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _stripes(
    draw: Draw, centre: tuple[float, float], radius: float, angle: float, colour: Colour, rng: np.random.Generator
) -> None:
    for at in (-0.75, -0.25, 0.25, 0.75):
        half = math.sqrt(1 - at * at)
        bar = np.array([(at - 0.13, -half), (at + 0.13, -half), (at + 0.13, half), (at - 0.13, half)])
        draw.polygon(_placed(bar, centre, radius, angle), fill=colour)


def _checker(
    draw: Draw, centre: tuple[float, float], radius: float, angle: float, colour: Colour, rng: np.random.Generator
) -> None:
    side = 0.4
    for row in range(4):
        for column in range(row % 2, 4, 2):
            x, y = (column - 2) * side, (row - 2) * side
            cell = np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)])
            draw.polygon(_placed(cell, centre, radius, angle), fill=colour)


def _dots(
    draw: Draw, centre: tuple[float, float], radius: float, angle: float, colour: Colour, rng: np.random.Generator
) -> None:
    grid = np.array([(x, y) for x in (-0.62, 0, 0.62) for y in (-0.62, 0, 0.62)])
    dot = 0.2 * radius
    for x, y in _placed(grid, centre, radius, angle):
        draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=colour)


CLASSES: dict[str, Callable[..., None]] = {
    "checker": _checker,
    "crescent": _polygon(_crescent),
    "cross": _polygon(_cross),
    "disk": _disk,
    "dots": _dots,
    "ring": _ring,
    "square": _polygon(lambda: _on_circle(4)),
    "star": _polygon(_star),
    "stripes": _stripes,
    "triangle": _polygon(lambda: _on_circle(3)),
}


def _gradient(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    corners = rng.integers(0, 110, (2, 2, 3), np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)


def _clutter(draw: Draw, size: tuple[int, int], rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        _stroke(draw, size, rng, widest=0.06)
        return
    # A blob: an uneven polygon, smaller than any figure.
    centre = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    num = int(rng.integers(5, 9))
    angles = np.sort(rng.uniform(0, 2 * math.pi, num))
    far = rng.uniform(0.03, 0.09, num) * min(size)
    points = [(centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for r, a in zip(far, angles, strict=True)]
    draw.polygon(points, fill=_colour(rng))


def _stroke(draw: Draw, size: tuple[int, int], rng: np.random.Generator, *, widest: float) -> None:
    ends = [(rng.uniform(0, size[0]), rng.uniform(0, size[1])) for _ in range(2)]
    draw.line(ends, fill=_colour(rng), width=max(1, int(rng.uniform(0.01, widest) * min(size))))


def _colour(rng: np.random.Generator) -> Colour:
    red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
    return red, green, blue


def _bright(label: int, rng: np.random.Generator) -> Colour:
    hue = label / len(CLASSES) + rng.uniform(-MOST_TURN, MOST_TURN) / 360
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.6, 1), rng.uniform(0.75, 1))
    return int(255 * red), int(255 * green), int(255 * blue)
