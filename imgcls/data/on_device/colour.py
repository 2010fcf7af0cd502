"""Random colours: brightness, contrast, saturation, hue, and the shift along the principal colours."""

import math

import torch
from torch import Tensor

from imgcls.data.augment import keyed_random
from imgcls.data.on_device.augment import AugmentedBatch, BatchKey, check_setting

# Eigenvalues and eigenvectors of the covariance of the RGB values of ImageNet's training pixels, in 0..1, as Facebook's
# fb.resnet.torch published them and all have used since: rows of PCA_AXES are red, green, blue.
PCA_SCALES = (0.2175, 0.0188, 0.0045)
PCA_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
LUMA = (0.299, 0.587, 0.114)


class ColourJitter:
    """Change brightness, contrast, saturation and hue, in this order.

    Howard 2013, section 2.2, which applies them in random order.

    Args:
        brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x; at most 1.
        hue: turn of the colour circle, drawn from -x to x; at most 0.5.

    Raises:
        ValueError: a value out of its range.
    """

    after_normalising = False
    needs_colour = True

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        self.brightness = check_setting("brightness", brightness, 1)
        self.contrast = check_setting("contrast", contrast, 1)
        self.saturation = check_setting("saturation", saturation, 1)
        self.hue = check_setting("hue", hue, 0.5)

    def __call__(self, images: Tensor, targets: Tensor, key: BatchKey) -> AugmentedBatch:
        """Change images (B, 3, H, W) in 0..1; the targets stay."""
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            return AugmentedBatch(images, targets)
        draws = key.uniforms(4, stream=keyed_random.COLOUR)
        spread = (2 * draws - 1)[..., None, None, None]  # (B, 4, 1, 1, 1) in -1..1
        if self.brightness:
            images = (images * (1 + self.brightness * spread[:, 0])).clamp(0, 1)
        if self.contrast:
            grey = luma(images).mean(dim=(1, 2, 3), keepdim=True)
            images = torch.lerp(grey, images, 1 + self.contrast * spread[:, 1]).clamp(0, 1)
        if self.saturation:
            images = torch.lerp(luma(images), images, 1 + self.saturation * spread[:, 2]).clamp(0, 1)
        if self.hue:
            images = turn_hue(images, self.hue * spread[:, 3, :, :, 0])
        return AugmentedBatch(images, targets)


class PcaShift:
    """Shift all pixels of an image along the principal components of ImageNet's colours.

    Krizhevsky et al. 2012, section 4.1.

    Args:
        std: standard deviation of the shift, in units of each component's own (the paper: 0.1).

    Raises:
        ValueError: `std` is negative.
    """

    after_normalising = False
    needs_colour = True

    def __init__(self, std: float = 0.0) -> None:
        self.std = check_setting("std", std, math.inf)

    def __call__(self, images: Tensor, targets: Tensor, key: BatchKey) -> AugmentedBatch:
        """Change images (B, 3, H, W) in 0..1; the targets stay."""
        if self.std:
            draws = key.uniforms(8, stream=keyed_random.COLOUR)[:, 4:]  # the first four are ColourJitter's
            images = images + pca_shift(_normal(draws)[:, :3] * self.std)
        return AugmentedBatch(images, targets)


def luma(images: Tensor) -> Tensor:
    """Return brightness as the eye weighs it (ITU-R BT.601): (B, 3, H, W) to (B, 1, H, W); gray images stay."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def pca_shift(strengths: Tensor) -> Tensor:
    """Return what to add to RGB in 0..1: (B, 3) strengths to (B, 3, 1, 1). Krizhevsky et al. 2012, section 4.1."""
    axes, scales = strengths.new_tensor(PCA_AXES), strengths.new_tensor(PCA_SCALES)
    return ((strengths * scales) @ axes.T)[:, :, None, None]


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV by `turns` of the circle: images (B, 3, H, W) in 0..1, turns (B, 1, 1)."""
    red, green, blue = images.unbind(dim=1)
    value, darkest = images.amax(dim=1), images.amin(dim=1)
    range_ = value - darkest
    safe = torch.where(range_ == 0, 1, range_)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * turns
    # A channel of a pure hue rises and falls linearly over the circle (Smith 1978, "hexcone").
    offsets = images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    ramp = (offsets + sixths[:, None]) % 6
    return value[:, None] - range_[:, None] * torch.minimum(ramp, 4 - ramp).clamp(0, 1)


def _normal(draws: Tensor) -> Tensor:
    # Box & Muller 1958; 1 - u is in (0, 1], where the logarithm is finite.
    far = (-2 * torch.log((1 - draws[:, 0::2]).clamp(min=1e-7))).sqrt()
    angle = 2 * math.pi * draws[:, 1::2]
    return torch.cat([far * angle.cos(), far * angle.sin()], dim=1)
