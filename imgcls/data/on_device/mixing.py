"""Mixup and cutmix: images and targets that are part one image, part another."""

import numpy as np
import torch
from torch import Tensor, nn

from imgcls.data.augment import keyed_random
from imgcls.data.on_device.augment import AugmentedBatch, BatchKey, box_mask, check_setting

MAX_ALPHA = 8  # of Beta(alpha, alpha): at 10 the variance of its tabled quantiles is 1 % off, at 20 fourfold


class Mix:
    """Mix each image, and its target, with the image before it in the batch: by mixup, by cutmix, or half and half.

    Args:
        mixup: alpha of Beta(alpha, alpha), from which the share of the blend is drawn; at most 8, 0 is off. Zhang et
            al. 2017, section 2.
        cutmix: the same for the area of a pasted box. Yun et al. 2019, section 3.1.

    Raises:
        ValueError: a value out of its range.
    """

    after_normalising = True
    needs_colour = False

    def __init__(self, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        self.mixup = check_setting("mixup", mixup, MAX_ALPHA)
        self.cutmix = check_setting("cutmix", cutmix, MAX_ALPHA)
        self._quantiles = {alpha: _beta_quantiles(alpha) for alpha in (mixup, cutmix) if alpha > 0}

    def __call__(self, images: Tensor, targets: Tensor, key: BatchKey) -> AugmentedBatch:
        """Mix images (B, C, H, W); targets (B,) become (B, K)."""
        if not (self.mixup or self.cutmix):
            return AugmentedBatch(images, targets)
        draws = key.uniforms(4, stream=keyed_random.MIX)
        cuts = draws[:, 0] < (0.5 if self.mixup > 0 else 1.0) if self.cutmix > 0 else torch.zeros_like(targets).bool()
        share = torch.where(cuts, self.beta(self.cutmix, draws[:, 1]), self.beta(self.mixup, draws[:, 1]))
        others = images.roll(1, dims=0)

        side = (1 - share).sqrt()
        height, width = images.shape[2:]
        # The box is centred anywhere and cut at the edges; the target follows the area that is left of it.
        box = box_mask(images.shape, draws[:, 2] - side / 2, draws[:, 3] - side / 2, side, side)
        share = torch.where(cuts, 1 - box.sum(dim=(1, 2, 3)) / (height * width), share)
        blended = torch.lerp(others, images, share[:, None, None, None])
        mixed = torch.where(cuts[:, None, None, None], torch.where(box, others, images), blended)
        one_hot = nn.functional.one_hot(targets, key.num_classes).float()
        return AugmentedBatch(
            mixed.contiguous(memory_format=torch.channels_last),
            torch.lerp(one_hot.roll(1, dims=0), one_hot, share[:, None]),
        )

    def beta(self, alpha: float, draws: Tensor) -> Tensor:
        """Turn uniform numbers into those of Beta(alpha, alpha), for the alphas of this mix; 1 for alpha 0."""
        if alpha == 0:
            return torch.ones_like(draws)
        table = torch.as_tensor(self._quantiles[alpha], dtype=torch.float32, device=draws.device)
        at = (0.5 - (draws - 0.5).abs()) * 2 * (len(table) - 1)
        low = at.long().clamp(max=len(table) - 2)
        lower = torch.lerp(table[low], table[low + 1], at - low) ** (1 / alpha)
        return torch.where(draws < 0.5, lower, 1 - lower)


def _beta_quantiles(alpha: float, num: int = 4097) -> np.ndarray:
    # Quantiles of Beta(a, a) up to the median, as s = x**a: the density of s is (1 - s**(1/a))**(a - 1) up to a
    # constant, which has no pole on the way to the median, so plain sums integrate it.
    s = np.linspace(0, 0.5**alpha, 1 << 16)
    density = (1 - s ** (1 / alpha)) ** (alpha - 1)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp(np.linspace(0, 1, num), mass / mass[-1], s)
