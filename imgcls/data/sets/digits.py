"""Ten classes of digits that the program draws itself: LeNet-5's own domain, without a download.

The digits of one typeface, each of another size, weight, slant, tilt and place, over noise: 28x28, gray, bright on dark
as MNIST's. Easier than handwriting; drawn on first use, in seconds.
"""

import logging
import math
import time

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from imgcls.data.sets.splits import ImageSet, image_set_of_arrays
from imgcls.environment import cache_file, keep

log = logging.getLogger(__name__)
VERSION = 1  # raise it whenever what is drawn changes: the cache is by version
CLASSES = tuple("0123456789")
NUM_TRAIN, NUM_VAL = 300, 50  # of each class
SIDE = 28
CANVAS = 56  # drawn at twice the size, then reduced, for smooth edges
MOST_TILT = 0.35  # radians
MOST_SLANT = 0.3
WHAT = "the set of drawn digits"


def draw_digits(root: str | None = None, *, channels: int = 1) -> ImageSet:
    """3,000 and 500 digits, 28x28; three channels are equal."""
    del root  # nothing is stored there
    train, val = np.split(_images(), [NUM_TRAIN], axis=1)
    return image_set_of_arrays(_labelled(train, channels), _labelled(val, channels), CLASSES, name="digits")


def _labelled(images: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    num_classes, num, *size = images.shape
    return np.repeat(images.reshape(-1, *size, 1), channels, axis=3), np.repeat(np.arange(num_classes), num)


def _images() -> np.ndarray:
    """Return the images of each class, (10, 350, 28, 28) uint8, from the cache folder if they are there."""
    shape = (len(CLASSES), NUM_TRAIN + NUM_VAL, SIDE, SIDE)
    # Another Pillow may have another font, or draw it in another way.
    file = cache_file("digits", f"{VERSION} {PIL.__version__}".encode(), ".npy", what=WHAT)
    if file is not None:
        try:
            images = np.load(file)
            if (images.shape, images.dtype) == (shape, np.uint8):
                return images
        except (OSError, ValueError, EOFError):  # not there yet, or damaged
            pass
    started = time.monotonic()
    images = np.array([[draw_digit(label, number) for number in range(shape[1])] for label in range(shape[0])])
    log.info("drew %d digits in %.1f s", shape[0] * shape[1], time.monotonic() - started)
    keep(file, lambda stream: np.save(stream, images), what=WHAT)
    return images


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
