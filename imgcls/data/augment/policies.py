"""Augmentation policies for one image of bytes: TrivialAugment and RandAugment.

Operations and strengths are those of torchvision's transforms, by Pillow, so that loader threads do them side by side;
what is drawn is keyed like everything else. Pixels that move in from outside are black.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

BILINEAR = Image.Resampling.BILINEAR
STEPS = 30  # strengths go from 0 to this, in whole numbers


class Policy(Protocol):
    """Changes an image as `num_draws` uniform numbers say."""

    @property
    def num_draws(self) -> int: ...

    def __call__(self, pixels: np.ndarray, draws: np.ndarray) -> None:
        """Change pixels (H, W, C) uint8 in place."""
        ...


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """One operation at a random strength, from the wide range. Mueller & Hutter 2021, section 3 and table 8."""

    num_draws = 3

    def __call__(self, pixels: np.ndarray, draws: np.ndarray) -> None:
        name = OPERATIONS[int(draws[0] * len(OPERATIONS))]
        strength = int(draws[1] * (STEPS + 1)) / STEPS
        _write(operate(_read(pixels), name, _wide(name, strength) * _sign(name, draws[2])), pixels)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations in turn, all at strength `magnitude` of 0..30. Cubuk et al. 2019, section 3.

    Raises:
        ValueError: a number out of its range.
    """

    num_ops: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.num_ops < 1:
            raise ValueError(f"augment.policy_ops={self.num_ops}; use 1 or more operations")
        if not 0 <= self.magnitude <= STEPS:
            raise ValueError(f"augment.policy_magnitude={self.magnitude} is out of range; use 0 to {STEPS}")

    @property
    def num_draws(self) -> int:
        return 2 * self.num_ops

    def __call__(self, pixels: np.ndarray, draws: np.ndarray) -> None:
        image = _read(pixels)
        for which, sign in draws.reshape(-1, 2):
            name = OPERATIONS[int(which * len(OPERATIONS))]
            amount = _narrow(name, self.magnitude / STEPS, image.width, image.height)
            image = operate(image, name, amount * _sign(name, sign))
        _write(image, pixels)


def make_policy(name: str | None, *, ops: int = 2, magnitude: int = 9) -> Policy | None:
    """Return the policy of that name; None for None.

    Raises:
        ValueError: no policy has that name, or a number is out of its range.
    """
    if name is None:
        return None
    if name == "trivialaugment":
        return TrivialAugment()
    if name == "randaugment":
        return RandAugment(ops, magnitude)
    raise ValueError(f"augment.policy={name!r} is not known; use trivialaugment, randaugment or null")


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
_SIGNED = frozenset(OPERATIONS[1:10])  # from shear_x to sharpness


def _sign(name: str, draw: float) -> int:
    return -1 if name in _SIGNED and draw < 0.5 else 1


def _wide(name: str, strength: float) -> float:
    match name:
        case "shear_x" | "shear_y" | "brightness" | "color" | "contrast" | "sharpness":
            return 0.99 * strength
        case "translate_x" | "translate_y":
            return 32 * strength
        case "rotate":
            return 135 * strength
        case "posterize":
            return round(8 - 6 * strength)
        case "solarize":
            return 1 - strength
    return 0.0


def _narrow(name: str, strength: float, width: int, height: int) -> float:
    match name:
        case "shear_x" | "shear_y":
            return 0.3 * strength
        case "brightness" | "color" | "contrast" | "sharpness":
            return 0.9 * strength
        case "translate_x":
            return 150 / 331 * width * strength
        case "translate_y":
            return 150 / 331 * height * strength
        case "rotate":
            return 30 * strength
        case "posterize":
            return round(8 - 4 * strength)
        case "solarize":
            return 1 - strength
    return 0.0


def _read(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _write(image: Image.Image, pixels: np.ndarray) -> None:
    pixels[:] = np.asarray(image).reshape(pixels.shape)
