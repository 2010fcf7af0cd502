"""Batches of uint8 images from a split: threads of one process decode straight into a ring of batch buffers.

What a batch holds is a function of (seed, epoch, position). The calling thread hands out the work for the next few
batches each time it is asked for one, so there is no thread that could outlive an error, and nothing to wake up.
"""

import functools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from imgcls.data.augment import Crop, Policy, keyed_random
from imgcls.data.decoding import BadImageError, Failures, Plan
from imgcls.data.loading.bad_images import BadImages
from imgcls.data.loading.resident import make_resident
from imgcls.data.sets import Split, StreamedEpoch, StreamedSplit
from imgcls.device import copies_in_background
from imgcls.environment import default_num_threads


class Batch(NamedTuple):
    """Images (B, H, W, C) uint8, labels (B,) int64, and the positions of the images in their split (B,) int64."""

    images: Tensor
    labels: Tensor
    indices: Tensor


# Batches: what a rank finds before a step is known to all ranks after the next step, and before the one that needs it.
LOOK_AHEAD = 2


class Coming(NamedTuple):
    """Why a batch that comes later in the epoch, at this position, cannot be trained on."""

    position: int
    error: Exception


class Loader:
    """Batches of a split, epoch by epoch, from any position in it.

    In training (`shuffle`) each epoch is a new order, its last incomplete batch is dropped, and each rank gets its
    share of every batch. Otherwise every image comes exactly once over all ranks, in the order of the split, and the
    last batch is smaller. A batch is valid until the next one is asked for.

    With `balanced`, an epoch of training has as many images of each class, some of them more than once; the positions
    of those that come again count on from the split's end, so that each time is augmented in its own way. With
    `repeats`, a batch has each of its images so many times, and an epoch as many batches.

    `image_size` is the side of a square, or height and width; `batch_size` counts images over all ranks; `channels` is
    taken from the split where it is an array; `interpolation` and `pillow_draft` are the plan's.

    Shards that are streamed come window by window, and one epoch is read at a time; the last of `num_epochs` fetches
    none for another.

    Of several ranks in training each looks two batches ahead: `coming` says in time what it will fail at.

    Raises:
        ValueError: sizes that cannot work.
    """

    def __init__(
        self,
        split: Split,
        crop: Crop,
        *,
        image_size: int | Sequence[int],
        batch_size: int,
        seed: int,
        shuffle: bool,
        balanced: bool = False,
        repeats: int = 1,
        channels: int = 3,
        flip: float = 0.0,
        policy: Policy | None = None,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int | None = None,
        prefetch: int = 4,
        device: torch.device | str = "cpu",
        on_bad_image: Literal["raise", "skip"] = "raise",
        max_bad_share: float = 0.01,
        cache_gb: float = 0.0,
        interpolation: str = "bilinear",
        pillow_draft: bool = False,
        num_epochs: int | None = None,
    ) -> None:
        _check(len(split), batch_size, world_size, num_threads, prefetch, on_bad_image, shuffle=shuffle)
        self.split = split
        # Its images come window by window, while others of its shards are fetched and deleted.
        self.streamed = split if isinstance(split, StreamedSplit) and shuffle else None
        if self.streamed is not None:
            self.streamed.check_batch_size(batch_size)
        self.seed = seed
        self.shuffle = shuffle
        self.balanced = balanced
        self.repeats = repeats
        self.batch_size = batch_size
        self.rank, self.world_size = rank, world_size
        self.local_size = batch_size // world_size
        self.look_ahead = LOOK_AHEAD if shuffle and world_size > 1 else 0
        self.coming: Coming | None = None
        self.prefetch = prefetch
        self.num_epochs = num_epochs
        self.num_threads = num_threads or default_num_threads()
        self.device = torch.device(device)
        self.plan = Plan(
            crop, image_size=image_size, flip=flip, seed=seed, interpolation=interpolation, draft=pillow_draft
        )
        self.shape = (self.plan.image_size.height, self.plan.image_size.width, channels)
        self._policy = policy
        self.reader = split.make_reader(self.plan, channels, cache_gb=cache_gb)
        self.resident = make_resident(split, self.plan, self.device) if policy is None else None
        self.bad_images = BadImages(split, skip=on_bad_image == "skip", max_share=max_bad_share)
        self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="imgcls-loader")
        self._slots: list[_Slot] = []
        self._stream: StreamedEpoch | None = None
        self._side = torch.cuda.Stream(self.device) if copies_in_background(self.device) else None

    @functools.cached_property
    def class_shares(self) -> np.ndarray:
        """Each class's share of the images of an epoch, (K,), of the classes up to the last one that has any."""
        counts = np.bincount(self.split.labels)
        return (counts > 0) / (counts > 0).sum() if self.balanced else counts / counts.sum()

    @property
    def num_batches(self) -> int:
        """Batches in an epoch on this rank."""
        if self.shuffle:
            return len(self.split) // self.batch_size
        return -(-len(range(self.rank, len(self.split), self.world_size)) // self.local_size)

    @property
    def num_images(self) -> int:
        """Images in an epoch over all ranks."""
        return self.num_batches * self.batch_size if self.shuffle else len(self.split)

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from position `start` on; nothing before it is decoded.

        Raises:
            BadImageError: an image that cannot be decoded, where on_bad_image is raise.
            ValueError: more of the split than max_bad_share cannot be decoded.
        """
        self.coming = None
        order = self._order(epoch)
        if self.resident is not None:
            for batch in self.resident.batches(epoch, order, batch_size=self.local_size, start=start):
                yield Batch(*batch)
            return
        slots = self._free_slots()
        waiting: dict[int, _Slot] = {}
        if self.streamed is not None:
            self._stream = self.streamed.begin(self.seed, epoch, num_epochs=self.num_epochs)
        try:
            self._stream_from(order, start)
            for position in range(start, min(start + len(slots), self.num_batches)):
                waiting[position] = self._begin(slots[(position - start) % len(slots)], epoch, order, position)
            for position in range(start, self.num_batches):
                slot = waiting.pop(position)
                self._finish(slot)
                self._stream_from(order, position + 1)
                self._look_ahead(waiting, position)
                yield self._batch(slot)
                slot.wait_until_copied()
                if (ahead := position + len(slots)) < self.num_batches:
                    waiting[ahead] = self._begin(slot, epoch, order, ahead)
        finally:
            if self._stream is not None:
                self._stream.stop()
            for slot in waiting.values():
                slot.cancel()
            for slot in slots:
                slot.wait_until_copied()
            self._slots += slots

    def close(self) -> None:
        """End the threads; the loader is of no use afterwards."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.rank, len(self.split), self.world_size)
        num = self.num_batches * keyed_random.num_different(self.batch_size, self.repeats)
        if self.balanced:
            order = keyed_random.balanced_order(self.split.labels, num, self.seed, epoch)
        else:
            order = self._permutation(epoch)[:num]
        order = keyed_random.repeated_order(order, self.repeats, num=len(self.split), batch_size=self.batch_size)
        return order.reshape(-1, self.world_size, self.local_size)[:, self.rank].reshape(-1)

    def _permutation(self, epoch: int) -> np.ndarray:
        if self.streamed is not None:
            return self.streamed.permutation(self.seed, epoch)
        return keyed_random.permutation(len(self.split), self.seed, epoch)

    def _stream_from(self, order: np.ndarray, position: int) -> None:
        if self._stream is not None:
            self._stream.move_to(order[position * self.local_size : (position + 1) * self.local_size])

    def _free_slots(self) -> list["_Slot"]:
        # An epoch that is begun while another is unfinished gets new buffers.
        num = min(self.prefetch + 1 + self.look_ahead, max(1, self.num_batches))
        slots = [self._slots.pop() for _ in range(min(num, len(self._slots)))]
        pinned = copies_in_background(self.device)
        return slots + [_Slot(self.local_size, self.shape, pinned=pinned) for _ in range(num - len(slots))]

    def _begin(self, slot: "_Slot", epoch: int, order: np.ndarray, position: int) -> "_Slot":
        indices = order[position * self.local_size : (position + 1) * self.local_size]
        slot.begin(indices)
        size = min(self.reader.chunk_size, -(-len(indices) // self.num_threads))
        for first in range(0, len(indices), size):
            part = slice(first, min(first + size, len(indices)))
            slot.parts.append(self._pool.submit(self._fill, slot, part, epoch))
        return slot

    def _fill(self, slot: "_Slot", part: slice, epoch: int) -> Failures:
        indices, out = slot.indices[part], slot.pixels[part]
        if self._stream is not None:
            self._stream.wait(indices)
        failures = self.reader.fill(self.plan, epoch, indices, out)
        for position, error in failures if self.shuffle else ():
            index = int(indices[position])
            if self.bad_images.may_skip(index % len(self.split)):
                indices[position] = self._refill(index, epoch, out[position : position + 1], error)
        if self._policy is not None:
            draws = keyed_random.uniforms(self.seed, epoch, indices, self._policy.num_draws, stream=keyed_random.POLICY)
            for image, numbers in zip(out, draws, strict=True):
                self._policy(image, numbers)
        slot.labels[part] = self.split.labels[indices % len(self.split)]
        return [(part.start + position, error) for position, error in failures]

    def _refill(self, index: int, epoch: int, out: np.ndarray, error: BadImageError) -> int:
        # Another image instead of a bad one, chosen by its index: the same one whoever decodes it.
        draws = keyed_random.uniforms(self.seed, epoch, np.array([index]), 16, stream=keyed_random.REFILL)[0]
        if self.streamed is None:
            others = (draws * len(self.split)).astype(np.int64)
        else:
            here = self.streamed.in_same_shard(index % len(self.split))
            others = here[(draws * len(here)).astype(np.int64)]
        for other in others:
            if not self.reader.fill(self.plan, epoch, other[None], out):
                return int(other)
        raise ValueError(f"sixteen images instead of a bad one were bad too; the first: {error}")

    def _look_ahead(self, waiting: dict[int, "_Slot"], position: int) -> None:
        for coming in range(position + 1, position + 1 + self.look_ahead):
            if coming in waiting and self.coming is None:
                try:
                    self._finish(waiting[coming])
                except (BadImageError, ValueError, OSError) as error:
                    self.coming = Coming(coming, error)

    def _finish(self, slot: "_Slot") -> None:
        """Wait until a batch is decoded, and note its bad images.

        Raises:
            BadImageError, ValueError, OSError: it cannot be trained on.
        """
        slot.finish()
        for position, error in slot.failures:
            self.bad_images.note(int(slot.asked[position]) % len(self.split), error)

    def _batch(self, slot: "_Slot") -> Batch:
        if slot.failures and not self.shuffle:
            slot.leave_out(position for position, _ in slot.failures)
        batch = slot.batch()
        if self.device.type == "cpu":
            return batch
        if self._side is None:
            return Batch(*(tensor.to(self.device) for tensor in batch))
        with torch.cuda.stream(self._side):
            copies = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
            slot.copied = torch.cuda.Event()
            slot.copied.record(self._side)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._side)
        for tensor in copies:
            tensor.record_stream(current)  # its memory is the side stream's: keep it until the step has used it
        return copies


class _Slot:
    """One batch buffer of the ring, and the work that is filling it."""

    def __init__(self, size: int, shape: tuple[int, int, int], *, pinned: bool) -> None:
        self._images = torch.empty((size, *shape), dtype=torch.uint8, pin_memory=pinned)
        self._labels = torch.empty(size, dtype=torch.int64, pin_memory=pinned)
        self._indices = torch.empty(size, dtype=torch.int64, pin_memory=pinned)
        self.pixels = self._images.numpy()
        self.labels = self._labels.numpy()
        self.indices = self._indices.numpy()
        self.asked = np.empty(0, np.int64)
        self.length = 0
        self.parts: list[Future[Failures]] = []
        self.failures: Failures = []
        self.copied: torch.cuda.Event | None = None

    def begin(self, indices: np.ndarray) -> None:
        self.length = len(indices)
        self.asked = indices
        self.indices[: self.length] = indices
        self.parts, self.failures = [], []

    def finish(self) -> None:
        try:
            self.failures = [failure for part in self.parts for failure in part.result()]
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        for part in self.parts:
            part.cancel()
        for part in self.parts:
            if not part.cancelled():
                part.exception()

    def leave_out(self, positions: Iterator[int]) -> None:
        good = np.setdiff1d(np.arange(self.length), list(positions))
        for array in (self.pixels, self.labels, self.indices):
            array[: len(good)] = array[good]
        self.length = len(good)

    def batch(self) -> Batch:
        return Batch(self._images[: self.length], self._labels[: self.length], self._indices[: self.length])

    def wait_until_copied(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()
            self.copied = None


def _check(
    num: int,
    batch_size: int,
    world_size: int,
    num_threads: int | None,
    prefetch: int,
    on_bad_image: str,
    *,
    shuffle: bool,
) -> None:
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"batch_size={batch_size} does not divide over {world_size} ranks; use a multiple of {world_size}"
        )
    if shuffle and batch_size > num:
        raise ValueError(
            f"batch_size={batch_size} is more than the {num} training images, so an epoch would have no batch; "
            f"use at most {num}"
        )
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"data.num_threads={num_threads}; use 1 or more, or null for the cores of this process")
    if prefetch < 1:
        raise ValueError(f"data.prefetch={prefetch}; use 1 or more batches")
    if on_bad_image not in ("raise", "skip"):
        raise ValueError(f"data.on_bad_image={on_bad_image!r}; use raise or skip")
