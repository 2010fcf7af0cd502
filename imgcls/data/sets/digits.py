"""Ten classes of digits that the program draws itself: LeNet-5's own domain, without a download.

The digits of one typeface, each of another size, weight, slant, tilt and place, over noise: 28x28, gray, bright on dark
as MNIST's. Easier than handwriting; drawn at every start, in a second or two.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from imgcls.data.sets.splits import ImageSet, image_set_of_arrays

CLASSES = tuple("0123456789")
NUM_TRAIN, NUM_VAL = 300, 50  # of each class
SIDE = 28
CANVAS = 56  # drawn at twice the size, then reduced, for smooth edges
MOST_TILT = 0.35  # radians
MOST_SLANT = 0.3


def draw_digits(root: str | None = None, *, channels: int = 1) -> ImageSet:
    """3,000 and 500 digits, 28x28; three channels are equal."""
    del root  # nothing is stored
    train, val = _draw(range(NUM_TRAIN), channels), _draw(range(NUM_TRAIN, NUM_TRAIN + NUM_VAL), channels)
    return image_set_of_arrays(train, val, CLASSES, name="digits")


def _draw(numbers: range, channels: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.stack([draw_digit(label, number) for label in range(10) for number in numbers])
    return np.repeat(images[..., None], channels, axis=3), np.repeat(np.arange(10), len(numbers))


def draw_digit(label: int, number: int) -> np.ndarray:
    """Return image `number` of digit `label`, (28, 28) uint8; the same for the same arguments."""
    rng = np.random.default_rng([label, number])
    font = ImageFont.load_default(rng.uniform(34, 50))
    image = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    centre = CANVAS / 2
    level = int(rng.integers(160, 256))
    width = int(rng.integers(0, 3))
    draw.text((centre, centre), CLASSES[label], fill=level, font=font, anchor="mm", stroke_width=width)
    # From a pixel of the result to one of the drawing: slanted, tilted and moved.
    angle, slant = rng.uniform(-MOST_TILT, MOST_TILT), rng.uniform(-MOST_SLANT, MOST_SLANT)
    cos, sin = math.cos(angle), math.sin(angle)
    a, b, d, e = cos + slant * sin, -sin + slant * cos, sin, cos
    x, y = centre + rng.uniform(-4, 4, 2)
    matrix = (a, b, centre - a * x - b * y, d, e, centre - d * x - e * y)
    image = image.transform((CANVAS, CANVAS), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1))).reduce(CANVAS // SIDE)
    noise = rng.normal(0, rng.uniform(2, 20), (SIDE, SIDE))
    return np.clip(np.asarray(image, np.float64) + noise, 0, 255).astype(np.uint8)
