"""What is done to a batch on the device, after cropping: colour, erasing, mixing, and normalisation.

Every random number is keyed by (seed, epoch, sample index). Which images are mixed depends on the batch too: each is
mixed with the one before it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from imgcls.data.augment import keyed_random
from imgcls.data.on_device.keyed_random import uniforms_on_device
from imgcls.data.on_device.normalise import Normalise

# Eigenvalues and eigenvectors of the covariance of the RGB values of ImageNet's training pixels, in 0..1, as Facebook's
# fb.resnet.torch published them and all have used since: rows of PCA_AXES are red, green, blue.
PCA_SCALES = (0.2175, 0.0188, 0.0045)
PCA_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
LUMA = (0.299, 0.587, 0.114)
MAX_ALPHA = 8  # of Beta(alpha, alpha): at 10 the variance of its tabled quantiles is 1 % off, at 20 fourfold


class Augmented(NamedTuple):
    """Images (B, C, H, W) float, channels last in memory; targets (B,) int64, or (B, K) float where some are mixed."""

    images: Tensor
    targets: Tensor


class Augment:
    """Training batches to network inputs and targets.

    Arguments:
        pca_std: standard deviation of the shift along the principal colours (Krizhevsky et al. 2012, section 4.1: 0.1).
        brightness, contrast, saturation: factors are drawn from 1 - x .. 1 + x (Howard 2013, section 2.2, in random
            order); applied in this order, then
        hue: turn of the colour circle, drawn from -x .. x, at most 0.5.
        erasing: probability that a box is overwritten by noise (Zhong et al. 2017), of 2 % to 33 % of the image, as
            torchvision has it (the paper: to 40 %).
        mixup: the alpha of Beta(alpha, alpha), at most 8; 0 is off (Zhang et al. 2017, section 2).
        cutmix: the same for pasted boxes (Yun et al. 2019, section 3.1). With both, each image gets one.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        pca_std: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        for name, value, most in (
            ("pca_std", pca_std, np.inf),
            ("brightness", brightness, 1),
            ("contrast", contrast, 1),
            ("saturation", saturation, 1),
            ("hue", hue, 0.5),
            ("erasing", erasing, 1),
            ("mixup", mixup, MAX_ALPHA),
            ("cutmix", cutmix, MAX_ALPHA),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"augment.{name}={value} is out of range; use 0 (off) to {most}")
        self.normalise = Normalise(mean, std)
        self.seed = seed
        self.pca_std = pca_std
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.erasing = erasing
        self.mixup, self.cutmix = mixup, cutmix
        self._quantiles = {alpha: _beta_quantiles(alpha) for alpha in (mixup, cutmix) if alpha > 0}

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, *, epoch: int, num_classes: int) -> Augmented:
        """Images (B, H, W, C) uint8, labels (B,), indices (B,): all on one device."""
        self.normalise.to(images.device)
        pixels = images.permute(0, 3, 1, 2).float() / 255
        if pixels.shape[1] == 3:
            pixels = self._shift_colours(pixels, indices, epoch)
        pixels = self.normalise.normalise(pixels)
        if self.erasing > 0:
            pixels = self._erase(pixels, indices, epoch)
        if self.mixup > 0 or self.cutmix > 0:
            return self._mix(pixels, labels, indices, epoch, num_classes)
        return Augmented(pixels, labels)

    def _shift_colours(self, pixels: Tensor, indices: Tensor, epoch: int) -> Tensor:
        if not (self.pca_std or self.brightness or self.contrast or self.saturation or self.hue):
            return pixels
        draws = uniforms_on_device(self.seed, epoch, indices, 8, stream=keyed_random.COLOUR).float()
        spread = (2 * draws[:, :4] - 1)[..., None, None, None]  # (B, 4, 1, 1, 1) in -1..1
        if self.brightness:
            pixels = (pixels * (1 + self.brightness * spread[:, 0])).clamp(0, 1)
        if self.contrast:
            grey = luma(pixels).mean(dim=(1, 2, 3), keepdim=True)
            pixels = torch.lerp(grey, pixels, 1 + self.contrast * spread[:, 1]).clamp(0, 1)
        if self.saturation:
            pixels = torch.lerp(luma(pixels), pixels, 1 + self.saturation * spread[:, 2]).clamp(0, 1)
        if self.hue:
            pixels = turn_hue(pixels, self.hue * spread[:, 3, :, :, 0])
        if self.pca_std:
            pixels = pixels + pca_shift(_normal(draws[:, 4:8])[:, :3] * self.pca_std)
        return pixels

    def _erase(self, pixels: Tensor, indices: Tensor, epoch: int) -> Tensor:
        draws = uniforms_on_device(self.seed, epoch, indices, 5, stream=keyed_random.ERASE).float()
        area = 0.02 + (1 / 3 - 0.02) * draws[:, 1]
        aspect = torch.exp(np.log(0.3) + (np.log(3.3) - np.log(0.3)) * draws[:, 2])
        tall, wide = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)
        inside = _box_mask(pixels.shape, draws[:, 3] * (1 - tall), draws[:, 4] * (1 - wide), tall, wide)
        inside &= (draws[:, 0] < self.erasing)[:, None, None, None]
        noise = _pixel_noise(self.seed, epoch, indices, pixels.shape)
        return torch.where(inside, noise, pixels)

    def _mix(self, pixels: Tensor, labels: Tensor, indices: Tensor, epoch: int, num_classes: int) -> Augmented:
        draws = uniforms_on_device(self.seed, epoch, indices, 4, stream=keyed_random.MIX).float()
        cuts = draws[:, 0] < (0.5 if self.mixup > 0 else 1.0) if self.cutmix > 0 else torch.zeros_like(labels).bool()
        share = torch.where(cuts, self._beta(self.cutmix, draws[:, 1]), self._beta(self.mixup, draws[:, 1]))
        others = pixels.roll(1, dims=0)

        side = (1 - share).sqrt()
        height, width = pixels.shape[2:]
        # The box is centred anywhere and cut at the edges; the target follows the area that is left of it.
        box = _box_mask(pixels.shape, draws[:, 2] - side / 2, draws[:, 3] - side / 2, side, side)
        share = torch.where(cuts, 1 - box.sum(dim=(1, 2, 3)) / (height * width), share)
        blended = torch.lerp(others, pixels, share[:, None, None, None])
        mixed = torch.where(cuts[:, None, None, None], torch.where(box, others, pixels), blended)
        one_hot = nn.functional.one_hot(labels, num_classes).float()
        return Augmented(
            mixed.contiguous(memory_format=torch.channels_last),
            torch.lerp(one_hot.roll(1, dims=0), one_hot, share[:, None]),
        )

    def _beta(self, alpha: float, draws: Tensor) -> Tensor:
        """Uniform numbers to Beta(alpha, alpha)."""
        if alpha == 0:
            return torch.ones_like(draws)
        table = torch.as_tensor(self._quantiles[alpha], dtype=torch.float32, device=draws.device)
        at = (0.5 - (draws - 0.5).abs()) * 2 * (len(table) - 1)
        low = at.long().clamp(max=len(table) - 2)
        lower = torch.lerp(table[low], table[low + 1], at - low) ** (1 / alpha)
        return torch.where(draws < 0.5, lower, 1 - lower)


def luma(pixels: Tensor) -> Tensor:
    """Brightness as the eye weighs it (ITU-R BT.601): (B, 3, H, W) to (B, 1, H, W)."""
    return (pixels * pixels.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def pca_shift(strengths: Tensor) -> Tensor:
    """What to add to RGB in 0..1: (B, 3) strengths to (B, 3, 1, 1). Krizhevsky et al. 2012, section 4.1."""
    axes, scales = strengths.new_tensor(PCA_AXES), strengths.new_tensor(PCA_SCALES)
    return ((strengths * scales) @ axes.T)[:, :, None, None]


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV by `turns` of the circle: pixels (B, 3, H, W) in 0..1, turns (B, 1, 1)."""
    red, green, blue = pixels.unbind(dim=1)
    value, darkest = pixels.amax(dim=1), pixels.amin(dim=1)
    range_ = value - darkest
    safe = torch.where(range_ == 0, 1, range_)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * turns
    # A channel of a pure hue rises and falls linearly over the circle (Smith 1978, "hexcone").
    offsets = pixels.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    ramp = (offsets + sixths[:, None]) % 6
    return value[:, None] - range_[:, None] * torch.minimum(ramp, 4 - ramp).clamp(0, 1)


def _normal(draws: Tensor) -> Tensor:
    # Box & Muller 1958; 1 - u is in (0, 1], where the logarithm is finite.
    far = (-2 * torch.log((1 - draws[:, 0::2]).clamp(min=1e-7))).sqrt()
    angle = 2 * np.pi * draws[:, 1::2]
    return torch.cat([far * angle.cos(), far * angle.sin()], dim=1)


def _box_mask(shape: torch.Size, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    # Boxes in shares of the image, (B,) each, to (B, 1, H, W) bool: the pixels whose centres they hold.
    rows = (torch.arange(shape[2], device=top.device) + 0.5) / shape[2]
    columns = (torch.arange(shape[3], device=top.device) + 0.5) / shape[3]
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def _pixel_noise(seed: int, epoch: int, indices: Tensor, shape: torch.Size) -> Tensor:
    # Unit normal: what erasing puts in place of normalised pixels (Zhong et al. 2017, section 3, "RE-R" in spirit).
    num = shape[1] * shape[2] * shape[3]
    draws = uniforms_on_device(seed, epoch, indices, num + num % 2, stream=keyed_random.NOISE).float()
    return _normal(draws)[:, :num].reshape(shape).contiguous(memory_format=torch.channels_last)


def _beta_quantiles(alpha: float, num: int = 4097) -> np.ndarray:
    # Quantiles of Beta(a, a) up to the median, as s = x**a: the density of s is (1 - s**(1/a))**(a - 1) up to a
    # constant, which has no pole on the way to the median, so plain sums integrate it.
    s = np.linspace(0, 0.5**alpha, 1 << 16)
    density = (1 - s ** (1 / alpha)) ** (alpha - 1)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp(np.linspace(0, 1, num), mass / mass[-1], s)
