"""3-Augment: each image in gray, solarised or blurred."""

from collections.abc import Sequence

import torch
from torch import Tensor

from imgcls.data.augment import keyed_random
from imgcls.data.on_device.augment import AugmentedBatch, BatchKey, check_setting
from imgcls.data.on_device.blur import blur_some, check_sigma, draw_sigma
from imgcls.data.on_device.colour import luma

SOLARISE_FROM = 128 / 255  # Pillow's, as DeiT III calls it


class ThreeAugment:
    """Show each image in shades of gray, solarised, or blurred, one of the three as likely as another.

    Touvron et al. 2022 (DeiT III), section 3.2; colour jitter of 0.3 goes with it.

    Args:
        probability: that an image is changed at all (the paper: 1); 0 is off.
        sigma: of the blur: its standard deviation in pixels, drawn evenly between two numbers.

    Raises:
        ValueError: a value out of its range.
    """

    after_normalising = False
    needs_colour = False

    def __init__(self, probability: float = 0.0, sigma: Sequence[float] = (0.1, 2.0)) -> None:
        self.probability = check_setting("probability", probability, 1)
        self.sigma = check_sigma(sigma)

    def __call__(self, images: Tensor, targets: Tensor, key: BatchKey) -> AugmentedBatch:
        """Change images (B, C, H, W) in 0..1; the targets stay."""
        if not self.probability:
            return AugmentedBatch(images, targets)
        draws = key.uniforms(3, stream=keyed_random.THREE_AUGMENT)
        changed = draws[:, 0] < self.probability
        which = torch.where(changed, (3 * draws[:, 1]).long(), 3)
        images = blur_some(images, draw_sigma(self.sigma, draws[:, 2]), which == 2)
        gray, solarised = ((which == number)[:, None, None, None] for number in (0, 1))
        images = torch.where(gray, luma(images), images)
        images = torch.where(solarised & (images >= SOLARISE_FROM), 1 - images, images)
        return AugmentedBatch(images.contiguous(memory_format=torch.channels_last), targets)
