"""Normalise bytes to what the network takes: zero mean and unit variance, or bytes less their mean."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgcls.config import Config


def input_statistics(config: Config) -> dict[str, list[float]]:
    """Return the mean and std that pixels in 0..1 are normalised by, one number a channel.

    `augment.input=mean_subtracted` leaves them in 0..255 less their mean, as the networks of 2012 took them, whose
    initial weights are too small for anything less (Krizhevsky et al. 2012, section 2).
    """
    channels, std = config.data.channels, config.data.std
    if config.augment.input == "mean_subtracted":
        std = [1 / 255]
    return {"mean": _per_channel(config.data.mean, channels), "std": _per_channel(std, channels)}


def _per_channel(values: list[float], channels: int) -> list[float]:
    return values * channels if len(values) == 1 else values


class Normalise(nn.Module):
    """Bytes (B, H, W, C) to floats (B, C, H, W), channels last in memory: (x / 255 - mean) / std.

    Raises:
        ValueError: mean and std of different length, or a std that is not positive.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(
                f"data.mean={list(mean)} and data.std={list(std)}: give one number for each channel, std above 0"
            )
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", 1 / torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(1, -1, 1, 1) * self.scale, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.to(images.device)
        return self.normalise(images.permute(0, 3, 1, 2).float() / 255)

    def normalise(self, images: Tensor) -> Tensor:
        """Floats in 0..1, (B, C, H, W), to zero mean and unit variance."""
        if images.shape[1] != self.scale.shape[1]:
            raise ValueError(
                f"data.mean has {self.scale.shape[1]} values but images have {images.shape[1]} channels; "
                "give one number for each channel"
            )
        return images * self.scale + self.shift
