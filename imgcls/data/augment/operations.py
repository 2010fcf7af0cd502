"""Operations that change one image, by Pillow: what the policies draw from.

They are those of torchvision's transforms. Pixels that move in from outside are black.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

BILINEAR = Image.Resampling.BILINEAR


def operate(image: Image.Image, name: str, amount: float) -> Image.Image:
    """Apply one of `OPERATIONS`; the meaning of `amount` is the operation's."""
    return _ACTIONS[name](image, amount)


def _affine(image: Image.Image, *inverse: float) -> Image.Image:
    # Coefficients take an output pixel to its place in the input.
    return image.transform(image.size, Image.Transform.AFFINE, inverse, BILINEAR)


def _shift(image: Image.Image, right: int, down: int) -> Image.Image:
    return image.crop((-right, -down, image.width - right, image.height - down))  # black beyond its edges


_ACTIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, slope: _affine(image, 1, slope, 0, 0, 1, 0),
    "shear_y": lambda image, slope: _affine(image, 1, 0, 0, slope, 1, 0),
    "translate_x": lambda image, shift: _shift(image, int(shift), 0),
    "translate_y": lambda image, shift: _shift(image, 0, int(shift)),
    "rotate": lambda image, degrees: image.rotate(degrees, BILINEAR),
    "brightness": lambda image, change: ImageEnhance.Brightness(image).enhance(1 + change),
    "color": lambda image, change: ImageEnhance.Color(image).enhance(1 + change),
    "contrast": lambda image, change: ImageEnhance.Contrast(image).enhance(1 + change),
    "sharpness": lambda image, change: ImageEnhance.Sharpness(image).enhance(1 + change),
    "posterize": lambda image, bits: ImageOps.posterize(image, round(bits)),
    "solarize": lambda image, share: ImageOps.solarize(image, math.ceil(255 * share - 1e-6)),
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
}
OPERATIONS = tuple(_ACTIONS)


def read_image(pixels: np.ndarray) -> Image.Image:
    """Return pixels (H, W, C) uint8 of one or three channels as an image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def write_image(image: Image.Image, pixels: np.ndarray) -> None:
    """Write an image into pixels (H, W, C) uint8 of its size."""
    pixels[:] = np.asarray(image).reshape(pixels.shape)
