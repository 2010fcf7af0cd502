"""A small set that is on the device as a whole: a batch is gathered there, and nothing is copied to it but an order."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imgcls.data.decoding import Plan, only_copies, windows_of
from imgcls.data.sets import Split
from imgcls.device import free_memory

MOST_OF_MEMORY = 0.1  # what a set may take of the device's free memory: a small set, and the rest for training


class ResidentBatch(NamedTuple):
    """Images (B, H, W, C) uint8, labels (B,) and indices (B,) int64."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class Resident:
    """The images and labels of a split on a device, cropped there by crops that only copy pixels.

    The pixels are those that `imgcls.data.decoding.CopyingReader` copies on the CPU.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, plan: Plan, device: torch.device) -> None:
        self.plan = plan
        self.pixels = images
        self.size = images.shape[1:3]
        self.images = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        self.labels = torch.from_numpy(labels).to(device)

    def batches(self, epoch: int, order: np.ndarray, *, batch_size: int, start: int) -> Iterator[ResidentBatch]:
        """Yield batches of the images `order` (N,) from position `start` on; all crops and flips are drawn at once."""
        windows = windows_of(self.pixels, self.plan, epoch, order)
        device = self.images.device
        indices = torch.from_numpy(order).to(device)
        lefts, tops = torch.from_numpy(windows.corners).to(device).T
        flips = torch.from_numpy(windows.flips).to(device)
        for first in range(start * batch_size, len(order), batch_size):
            part = slice(first, first + batch_size)
            which = indices[part] % len(self.labels)  # more than that: drawn again
            images = self._crop(which, lefts[part], tops[part], flips[part])
            yield ResidentBatch(images, self.labels[which], indices[part])

    def _crop(self, indices: Tensor, lefts: Tensor, tops: Tensor, flips: Tensor) -> Tensor:
        (num_rows, num_columns), (height, width) = self.plan.image_size, self.size
        rows = tops[:, None] + torch.arange(num_rows, device=indices.device)
        steps = torch.arange(num_columns, device=indices.device)
        columns = lefts[:, None] + torch.where(flips[:, None], num_columns - 1 - steps, steps)
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
        return self.images[indices[:, None, None], rows, columns] * inside[..., None]


def make_resident(split: Split, plan: Plan, device: torch.device) -> Resident | None:
    """Copy a split to a GPU if its crops only copy pixels and it takes little of the memory there."""
    images = split.decoded
    free = free_memory(device)
    if free is None or images is None or not only_copies(images, plan):
        return None
    return Resident(images, split.labels, plan, device) if images.nbytes < MOST_OF_MEMORY * free else None
