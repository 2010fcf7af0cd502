"""Augmentation policies for one image of bytes: TrivialAugment, RandAugment, and AugMix by its name.

Operations and strengths are those of torchvision's transforms, by Pillow, so that loader threads do them side by side;
what is drawn is keyed like everything else.
"""

import dataclasses
from typing import Protocol

import numpy as np

from imgcls.data.augment.augmix import AugMix
from imgcls.data.augment.operations import OPERATIONS, operate, read_image, write_image

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
        write_image(operate(read_image(pixels), name, _wide(name, strength) * _sign(name, draws[2])), pixels)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """`ops` operations in turn, all at strength `magnitude` of 0..30. Cubuk et al. 2019, section 3.

    Raises:
        ValueError: a number out of its range.
    """

    ops: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.ops < 1:
            raise ValueError(f"augment.policy_ops={self.ops}; use 1 or more operations")
        if not 0 <= self.magnitude <= STEPS:
            raise ValueError(f"augment.policy_magnitude={self.magnitude} is out of range; use 0 to {STEPS}")

    @property
    def num_draws(self) -> int:
        return 2 * self.ops

    def __call__(self, pixels: np.ndarray, draws: np.ndarray) -> None:
        image = read_image(pixels)
        for which, sign in draws.reshape(-1, 2):
            name = OPERATIONS[int(which * len(OPERATIONS))]
            amount = _narrow(name, self.magnitude / STEPS, image.width, image.height)
            image = operate(image, name, amount * _sign(name, sign))
        write_image(image, pixels)


def make_policy(name: str | None, *, ops: int | None = None, magnitude: int | None = None) -> Policy | None:
    """Return the policy of that name, or None for None; a setting that is None has the policy's default.

    Raises:
        ValueError: no policy has that name, or a number is out of its range.
    """
    numbers = {"ops": ops, "magnitude": magnitude}
    given = {key: number for key, number in numbers.items() if number is not None}
    if name is None:
        return None
    if name == "trivialaugment":
        return TrivialAugment()
    if name == "randaugment":
        return RandAugment(**given)
    if name == "augmix":
        return AugMix(**given)
    raise ValueError(f"augment.policy={name!r} is not known; use trivialaugment, randaugment, augmix or null")


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
