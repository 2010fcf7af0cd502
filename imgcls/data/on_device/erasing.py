"""Random erasing: a box of noise in some of the images."""

import math

import torch
from torch import Tensor

from imgcls.data.augment import keyed_random, stream_key
from imgcls.data.on_device.augment import AugmentedBatch, BatchKey, box_mask, check_setting

NUM_NOISE_IMAGES = 64


class RandomErasing:
    """Overwrite a box of an image by noise: unit normal, as normalised pixels are.

    Zhong et al. 2017, section 3 ("RE-R" in spirit). Boxes are 2 % to 33 % of the image, as in torchvision (the paper:
    to 40 %), at aspect ratios from 0.3 to 3.3.

    The noise is that of one of 64 images of noise, drawn on the device once an epoch by a generator seeded by (seed,
    epoch). Which one, and the box, are keyed by (seed, epoch, index): so an image is erased the same way in any batch,
    on any rank and after a resume, at the cost of one gather, which never waits for the device.

    Args:
        probability: that an image is erased; 0 is off.

    Raises:
        ValueError: `probability` is not in 0..1.
    """

    after_normalising = True
    needs_colour = False

    def __init__(self, probability: float = 0.0) -> None:
        self.probability = check_setting("probability", probability, 1)

    def __call__(self, images: Tensor, targets: Tensor, key: BatchKey) -> AugmentedBatch:
        """Change images (B, C, H, W); the targets stay."""
        if not self.probability:
            return AugmentedBatch(images, targets)
        draws = key.uniforms(6, stream=keyed_random.ERASE)
        area = 0.02 + (1 / 3 - 0.02) * draws[:, 1]
        aspect = torch.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * draws[:, 2])
        tall, wide = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)
        inside = box_mask(images.shape, draws[:, 3] * (1 - tall), draws[:, 4] * (1 - wide), tall, wide)
        inside &= (draws[:, 0] < self.probability)[:, None, None, None]
        noise = self.noise[(draws[:, 5] * NUM_NOISE_IMAGES).long()].permute(0, 3, 1, 2)
        return AugmentedBatch(torch.where(inside, noise, images), targets)

    def prepare(self, images: Tensor, seed: int, epoch: int) -> None:
        """Draw the noise images of an epoch, (64, H, W, C) as `images` (B, H, W, C)."""
        if self.probability:
            generator = torch.Generator(images.device)
            generator.manual_seed(stream_key(seed, epoch, keyed_random.NOISE) & (1 << 63) - 1)
            shape = (NUM_NOISE_IMAGES, *images.shape[1:])
            self.noise = torch.randn(shape, generator=generator, device=images.device)
