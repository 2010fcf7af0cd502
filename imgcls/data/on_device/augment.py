"""Augment a training batch on the device after cropping: colours, blur, normalisation, then erasing and mixing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from imgcls.config import build_component
from imgcls.data.on_device.keyed_random import EpochNumbers, epoch_numbers, uniforms_on_device
from imgcls.data.on_device.normalise import Normalise


class AugmentedBatch(NamedTuple):
    """Images (B, C, H, W) float, channels last in memory; targets (B,) int64, or (B, K) float if images are mixed."""

    images: Tensor
    targets: Tensor


class BatchKey(NamedTuple):
    """What random numbers are a function of, and the number of classes."""

    numbers: EpochNumbers  # of the seed and the epoch
    indices: Tensor  # (B,) int64, on the images' device: positions of the images in their split
    num_classes: int

    def uniforms(self, num_draws: int, *, stream: int) -> Tensor:
        """Return `num_draws` uniform numbers in [0, 1) for each image: (B, num_draws) float32.

        They depend on (seed, epoch, index, stream) alone, so neither on the batch nor on the rank.
        """
        return uniforms_on_device(self.numbers, self.indices, num_draws, stream=stream).float()


class BatchAugmentation(Protocol):
    """One change of a whole batch. A new one is a class with this interface and a line in conf/config.yaml.

    One that draws something once an epoch does it in `prepare(images, seed, epoch)`, with the bytes (B, H, W, C) of the
    epoch's first batch; the rest is compiled with `compile=true`.
    """

    after_normalising: bool  # False: images are in 0..1
    needs_colour: bool  # gray images skip it

    def __call__(self, images: Tensor, targets: Tensor, key: BatchKey) -> AugmentedBatch:
        """Change images (B, C, H, W) and targets; never wait for the device."""
        ...


class Augment:
    """Training batches to network inputs and targets.

    Args:
        mean, std: of the normalisation, one number a channel.
        augmentations: applied in their order, those before the normalisation first.

    Raises:
        ValueError: `mean` and `std` of different length, or a std that is not positive.
    """

    def __init__(
        self,
        augmentations: Sequence[BatchAugmentation] = (),
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ) -> None:
        self.normalise = Normalise(mean, std)
        self.seed = seed
        self.before = [one for one in augmentations if not one.after_normalising]
        self.after = [one for one in augmentations if one.after_normalising]
        self.change: Callable[[Tensor, Tensor, BatchKey], AugmentedBatch] = self._change
        self._prepared: object = None

    def compile(self) -> None:
        """Make few kernels of the many of a batch, by torch.compile; only rounding differs."""
        self.change = torch.compile(self._change)

    def __call__(
        self, images: Tensor, labels: Tensor, indices: Tensor, *, epoch: int, num_classes: int
    ) -> AugmentedBatch:
        """Return the augmented batch of images (B, H, W, C) uint8, labels (B,), indices (B,): all on one device."""
        now = epoch, images.shape[1:], images.device
        if self._prepared != now:
            self.normalise.to(images.device)
            self.numbers = epoch_numbers(self.seed, epoch, images.device)
            for augmentation in (*self.before, *self.after):
                if prepare := getattr(augmentation, "prepare", None):
                    prepare(images, self.seed, epoch)
            self._prepared = now
        return self.change(images, labels, BatchKey(self.numbers, indices, num_classes))

    def _change(self, images: Tensor, labels: Tensor, key: BatchKey) -> AugmentedBatch:
        batch = AugmentedBatch(images.permute(0, 3, 1, 2).float() / 255, labels)
        batch = _apply(self.before, batch, key)
        batch = batch._replace(images=self.normalise.normalise(batch.images))
        return _apply(self.after, batch, key)


def _apply(augmentations: Sequence[BatchAugmentation], batch: AugmentedBatch, key: BatchKey) -> AugmentedBatch:
    gray = batch.images.shape[1] == 1
    for augmentation in augmentations:
        if not (gray and augmentation.needs_colour):
            batch = augmentation(*batch, key)
    return batch


def build_augmentations(nodes: Mapping[str, dict[str, Any]]) -> list[BatchAugmentation]:
    """Build the augmentations of `augment.batch` in their order.

    Raises:
        ConfigError: a node without `_target_`, or with a value out of its range.
    """
    return [build_component(f"augment.batch.{name}", node) for name, node in nodes.items()]


def check_setting(name: str, value: float, most: float) -> float:
    """Return `value` if it is in 0 (off) to `most`.

    Raises:
        ValueError: it is not.
    """
    if not 0 <= value <= most:
        raise ValueError(f"{name}={value} is out of range; use 0 (off) to {most}")
    return value


def box_mask(shape: torch.Size, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """Return the pixels whose centres are inside boxes: (B, 1, H, W) bool.

    Args:
        shape: of the images, (B, C, H, W).
        top, left, tall, wide: (B,) each, in shares of the image.
    """
    rows = (torch.arange(shape[2], device=top.device) + 0.5) / shape[2]
    columns = (torch.arange(shape[3], device=top.device) + 0.5) / shape[3]
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
