"""AugMix: an image mixed with what chains of operations make of it."""

import dataclasses
import math

import numpy as np
from PIL import Image

from imgcls.data.augment.operations import operate, read_image

# The paper leaves out what the corruptions of ImageNet-C have too: colour, contrast, brightness, sharpness.
OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
SIGNED = frozenset(("rotate", "shear_x", "shear_y", "translate_x", "translate_y"))
MAX_MAGNITUDE = 10
MAX_DEPTH = 3  # operations of a chain: 1 to 3
LEAST_LEVEL = 0.1


@dataclasses.dataclass(frozen=True)
class AugMix:
    """A mixture of `ops` chains of one to three operations, blended with the image itself.

    Hendrycks et al. 2020, section 3 and algorithm 1: the weights of the chains are Dirichlet(1, ..., 1), the share of
    the image is Beta(1, 1). The loss is the recipe's: the Jensen-Shannon consistency loss is not included.

    Args:
        ops: chains of each image (the paper: 3).
        magnitude: the largest strength of an operation, 1 to 10 (the paper: 3).

    Raises:
        ValueError: a number out of its range.
    """

    ops: int = 3
    magnitude: int = 3

    def __post_init__(self) -> None:
        if self.ops < 1:
            raise ValueError(f"augment.policy_ops={self.ops}; use 1 or more chains of augmix")
        if not 1 <= self.magnitude <= MAX_MAGNITUDE:
            raise ValueError(
                f"augment.policy_magnitude={self.magnitude} is out of range; use 1 to {MAX_MAGNITUDE} for augmix"
            )

    @property
    def num_draws(self) -> int:
        return 1 + self.ops * (2 + 3 * MAX_DEPTH)

    def __call__(self, pixels: np.ndarray, draws: np.ndarray) -> None:
        image = read_image(pixels)
        chains = draws[1:].reshape(self.ops, -1)
        weights = -np.log(1 - chains[:, 0])  # exponential: Dirichlet(1, ..., 1) once they add up to 1
        weights *= (1 - draws[0]) / max(weights.sum(), np.finfo(np.float64).tiny)
        mixed = (1 - weights.sum()) * pixels.astype(np.float32)
        for weight, numbers in zip(weights, chains, strict=True):
            mixed += np.float32(weight) * np.asarray(self.run_chain(image, numbers[1:])).reshape(pixels.shape)
        pixels[:] = np.rint(mixed)

    def run_chain(self, image: Image.Image, draws: np.ndarray) -> Image.Image:
        """Return the image after one to three operations, each of which three of the numbers decide."""
        depth = 1 + int(draws[0] * MAX_DEPTH)
        for which, level, sign in draws[1:].reshape(MAX_DEPTH, 3)[:depth]:
            name = OPERATIONS[int(which * len(OPERATIONS))]
            strength = (LEAST_LEVEL + (self.magnitude - LEAST_LEVEL) * level) / MAX_MAGNITUDE
            amount = _amount(name, strength, image.width, image.height)
            image = operate(image, name, -amount if name in SIGNED and sign < 0.5 else amount)
        return image


def _amount(name: str, strength: float, width: int, height: int) -> float:
    """Return what an operation gets for a strength of 0 to 1, as the authors' augmentations.py has it."""
    match name:
        case "shear_x" | "shear_y":
            return 0.3 * strength
        case "translate_x":
            return math.floor(width / 3 * strength)
        case "translate_y":
            return math.floor(height / 3 * strength)
        case "rotate":
            return math.floor(30 * strength)
        case "posterize":
            return 4 - math.floor(4 * strength)
        case "solarize":
            return 1 - strength
    return 0.0
