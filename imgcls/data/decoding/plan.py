"""The plan of crops and flips: a function of seed, epoch and sample index."""

from collections.abc import Sequence

import numpy as np

from imgcls.config import ImageSize
from imgcls.data.augment import Crop, keyed_random


class Plan:
    """Which box of each image, and whether mirrored: a function of (seed, epoch, sample index).

    Args:
        image_size: pixels on a side of the output, or its height and width.
        interpolation: of the pixels of a box: bilinear or bicubic.
        draft: what Pillow decodes, it may decode at a part of its size, as `decode_box` says.
    """

    def __init__(
        self,
        crop: Crop,
        *,
        image_size: int | Sequence[int],
        flip: float,
        seed: int,
        interpolation: str = "bilinear",
        draft: bool = False,
    ) -> None:
        self.crop = crop
        self.image_size = ImageSize.of(image_size)
        self.flip = flip
        self.seed = seed
        self.interpolation = interpolation
        self.draft = draft

    def boxes(self, epoch: int, indices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """(B, 4) boxes for images of `sizes` (B, 2)."""
        draws = keyed_random.uniforms(self.seed, epoch, indices, self.crop.num_draws, stream=keyed_random.CROP)
        return self.crop.boxes(sizes, draws, image_size=self.image_size)

    def flips(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        """(B,) bool."""
        if self.flip == 0:
            return np.zeros(len(indices), bool)
        return keyed_random.uniforms(self.seed, epoch, indices, 1, stream=keyed_random.FLIP)[:, 0] < self.flip
