"""Shards at URLs that pass through the cache folder, for sets that are larger than the disk.

The shards come in another order each epoch, and fill windows of a third of the budget; images are shuffled over their
window. So the order is a function of (seed, epoch), as that of any other set, each image comes once an epoch, and a run
that is taken up again fetches the windows that it still needs.
"""

import functools
import hashlib
import logging
import math
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from filelock import FileLock, Timeout

from imgcls.data.augment import keyed_random
from imgcls.data.decoding import BadImageError
from imgcls.data.sets.containers import READ, Contents, Index, Part, index_files, kept_index
from imgcls.data.sets.remote import RemoteFile, check_disk, fetch, look_up, read_range
from imgcls.data.sets.remote import place_of as place_of_url
from imgcls.data.sets.shards import ShardSplit, read_shard
from imgcls.data.sets.stream_folder import PAUSE, Fetching, Position, StreamFolder, streams_folder
from imgcls.errors import ConfigError

log = logging.getLogger(__name__)
NUM_WINDOWS = 3  # that the budget holds: one to train on, one that is fetched, one for what slower ranks still read
KIND = "shards"  # of the index, the same as of shards on this machine


class RemoteShards(NamedTuple):
    """The training shards of a set, and how many bytes of the disk they may take at any time."""

    files: list[RemoteFile]
    budget: int

    @property
    def window(self) -> int:
        """The most bytes of a window."""
        return self.budget // NUM_WINDOWS

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each shard, (S,) int64."""
        return np.array([file.size for file in self.files], np.int64)

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return int(self.sizes.sum())


def open_stream(urls: Sequence[str], stream_gb: float) -> Part:
    """Return the training part of a set whose shards pass through the cache folder.

    Raises:
        ConfigError: the budget is too small for the shards, the disk too small for the budget; or a shard cannot be
            fetched, which the index of a new set needs.
        FileNotFoundError: a shard is not there.
        ValueError: a shard is not whole, or an image has no label.
    """
    shards = RemoteShards(look_up(urls), round(stream_gb * 1e9))
    largest = int(shards.sizes.max())
    if shards.window < largest:
        raise ConfigError(
            f"data.stream_gb={stream_gb:g} is less than {NUM_WINDOWS} of the largest shard, of {_gb(largest)} GB: one "
            f"is trained on, one fetched, one for slower ranks; use {_gb(NUM_WINDOWS * largest)} or more"
        )
    if shards.num_bytes <= shards.budget:
        log.info(
            "data.stream_gb=%g holds all shards, of %s GB; without it they are fetched once, and kept",
            stream_gb, _gb(shards.num_bytes),
        )  # fmt: skip
    places = [place_of_url(url) for url in urls]
    return Part(places, _index(shards, places), functools.partial(StreamedSplit, shards=shards))


class StreamedSplit(ShardSplit):
    """Images in shards at URLs, of which those that an epoch needs now are on this machine.

    What is not here, as what a sample or a part of the set needs, is read from its URL, image by image.
    """

    def __init__(self, files: Sequence[Path], index: Index, labels: np.ndarray, *, shards: RemoteShards) -> None:
        super().__init__(files, index, labels)
        self.shards = shards
        self._files = [os.fsencode(file.url) for file in shards.files]
        self._places = list(files)
        self._folder: StreamFolder | None = None
        self._epoch: StreamedEpoch | None = None

    def _of_same_files(self, index: Index, labels: np.ndarray) -> Self:
        split = type(self)(self._places, index, labels, shards=self.shards)
        split.rules = self.rules
        return split

    def most_open_files(self) -> int:
        """Return how many of the smallest shards the budget holds."""
        sizes = np.sort(self._sizes[self._sizes > 0])
        return int(np.searchsorted(np.cumsum(sizes), self.shards.budget, side="right"))

    def content(self) -> list[np.ndarray]:
        """Return the names, the labels and the shards, which decide the order of the images."""
        return [*super().content(), self.index.files, self.shards.sizes]

    def fingerprint(self) -> str:
        """Return a digest of the images' names, and of the shards' places, sizes and versions."""
        stamps = "\0".join(file.stamp for file in self.shards.files)
        return hashlib.sha256(self.names.tobytes() + stamps.encode()).hexdigest()[:16]

    def windows(self, seed: int, epoch: int) -> list[np.ndarray]:
        """Return the shards of each window of an epoch, in their order."""
        return keyed_random.windows_of_groups(self._sizes, self.shards.window, seed, epoch)

    def permutation(self, seed: int, epoch: int) -> np.ndarray:
        """Return the order of the images in an epoch: (N,) int64."""
        return keyed_random.windowed_permutation(self.index.files, self.windows(seed, epoch), seed, epoch)

    def in_same_shard(self, index: int) -> np.ndarray:
        """Return the images of the shard that holds image `index`."""
        return np.flatnonzero(self.index.files == self.index.files[index])

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse batches that are larger than the smallest window: one would wait for more windows than there is room.

        Raises:
            ConfigError: with the smallest budget that works.
        """
        counts = np.bincount(self.index.files)
        at_least = np.cumsum(np.sort(counts[counts > 0]))  # images in so many shards
        largest = int(self._sizes.max())
        num_shards = self.shards.window // largest  # a window has so many at least
        if self._sizes.sum() <= self.shards.window or at_least[min(num_shards, len(at_least)) - 1] >= batch_size:
            return
        needed = min(int(np.searchsorted(at_least, batch_size)) + 1, len(at_least))
        raise ConfigError(
            f"data.stream_gb={self.shards.budget / 1e9:g}: a window of {num_shards} shards may hold "
            f"{at_least[num_shards - 1]} images, fewer than batch_size={batch_size}; use "
            f"{_gb(NUM_WINDOWS * needed * largest)} or more, or smaller batches"
        )

    def join(self, run: str, rank: int) -> None:
        """Share the shards on this machine with the other processes of a run, before any of them begins an epoch.

        Raises:
            ConfigError: the disk has less room than the budget.
        """
        if self._folder is None:
            self._folder = StreamFolder(self.shards.files, self.shards.budget, run=run, rank=rank)

    def begin(self, seed: int, epoch: int, *, num_epochs: int | None = None) -> "StreamedEpoch":
        """Begin to fetch the shards of an epoch, once it is said where in it.

        Args:
            num_epochs: of the run, if that is known: none are fetched for an epoch after it.

        Raises:
            RuntimeError: another epoch is being read.
        """
        if self._epoch is not None and not self._epoch.is_over:
            raise RuntimeError("streamed shards are read by one epoch at a time; close the other one first")
        self.join(uuid.uuid4().hex, 0)
        assert self._folder is not None
        self.keep_open(())
        self._epoch = StreamedEpoch(self, self._folder, seed, epoch, num_epochs)
        return self._epoch

    def keep_open(self, numbers: Sequence[int]) -> None:
        """Close the shards but those of `numbers`: the disk has the room of a deleted one once it is closed."""
        with self._lock:
            for number in self._open.keys() - set(numbers):
                os.close(self._open.pop(number))

    def descriptor(self, number: int) -> int:
        """Return the descriptor of shard `number`, if it is here.

        Raises:
            OSError: it is not here.
        """
        with self._lock:
            if number not in self._open:
                if self._folder is None:
                    raise FileNotFoundError(number)
                self._open[number] = os.open(self._folder.place(number), READ)
            return self._open[number]

    def find(self, index: int) -> bytes:
        """Return the bytes of image `index`; where its shard is not here, from its URL.

        Raises:
            OSError, ValueError: they cannot be read.
        """
        try:
            return super().find(index)
        except FileNotFoundError:
            number, size = int(self.index.files[index]), int(self.index.sizes[index, 0])
            return read_range(self.shards.files[number].url, int(self.index.starts[index]), size)

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        """Bytes of each shard, (S,) int64; 0 of those without images."""
        sizes = self.shards.sizes
        return np.where(np.bincount(self.index.files, minlength=len(sizes)) > 0, sizes, 0)


class StreamedEpoch:
    """An epoch of a streamed split in one process: shards come before they are needed and go when they are used up."""

    def __init__(
        self, split: StreamedSplit, folder: StreamFolder, seed: int, epoch: int, num_epochs: int | None
    ) -> None:
        self.split, self.folder, self.seed, self.epoch, self._num_epochs = split, folder, seed, epoch, num_epochs
        self._windows = split.windows(seed, epoch)
        self._window_of = np.zeros(len(split.shards.files), np.int64)
        for number, window in enumerate(self._windows):
            self._window_of[window] = number
        self._position: Position | None = None
        self._fetching: Fetching | None = None
        self._stopped = threading.Event()

    @property
    def is_over(self) -> bool:
        """Return True if it has been stopped."""
        return self._stopped.is_set()

    def move_to(self, indices: np.ndarray) -> None:
        """Go on to the batch of images `indices` (n,), all before it being read; to the next epoch without images."""
        windows = self._window_of[self.split.index.files[indices % len(self.split)]]
        position = Position(self.epoch, int(windows.min())) if len(indices) else Position(self.epoch + 1, 0)
        if position == self._position:
            return
        self._position = position
        later = np.flatnonzero(self._window_of >= position.window).tolist() if len(indices) else []
        self.split.keep_open(later)
        self.folder.move_to(position)
        if self._fetching is None and len(indices):
            self._log_start(self._windows[position.window], position.window)
            self._fetching = Fetching(self.folder, self._upcoming)

    def wait(self, indices: np.ndarray) -> None:
        """Wait until the shards of images `indices` (n,) are here.

        Raises:
            BadImageError: a shard cannot be fetched.
            RuntimeError: the epoch was stopped.
        """
        for number in np.unique(self.split.index.files[indices % len(self.split)]).tolist():
            while not self._is_here(number):
                if self._fetching is not None and self._fetching.error is not None:
                    reason = f"{self._fetching.error}; the same command goes on once it can be"
                    raise BadImageError("data.stream_gb", reason) from self._fetching.error
                if self._stopped.wait(PAUSE):
                    raise RuntimeError("the epoch was stopped")

    def stop(self) -> None:
        """Fetch no more; who waits for a shard gives up."""
        self._stopped.set()
        if self._fetching is not None:
            self._fetching.stop()

    def _is_here(self, number: int) -> bool:
        try:
            self.split.descriptor(number)  # stays open: whoever deletes the file does not take it away
        except FileNotFoundError:
            return False
        return True

    def _upcoming(self, position: Position) -> Iterator[int]:
        skipped = position.window
        for epoch in (position.epoch, position.epoch + 1):
            if epoch <= self.epoch or self._num_epochs is None or epoch < self._num_epochs:
                for window in self.split.windows(self.seed, epoch)[skipped:]:
                    yield from window.tolist()
            skipped = 0

    def _log_start(self, window: np.ndarray, number: int) -> None:
        missing = set(window.tolist()) - self.folder.present()
        if missing:
            size = sum(self.split.shards.files[each].size for each in missing)
            log.info(
                "fetching the %d shards (%.2f GB) of window %d of %d before the first batch",
                len(missing), size / 1e9, number + 1, len(self._windows),
            )  # fmt: skip


def _index(shards: RemoteShards, places: Sequence[Path]) -> Index:
    """Return the index of shards: of new ones by one pass through all of them, of which none is kept."""
    stamps = [file.stamp for file in shards.files]
    if (index := kept_index(stamps, kind=KIND)) is not None:
        return index
    folder = streams_folder()
    scratch, lock = folder / "index", FileLock(folder / "index.lock")
    file_of = dict(zip(places, shards.files, strict=True))
    room = threading.Semaphore(shards.budget // int(shards.sizes.max()))

    def read(place: Path) -> Contents:
        file = scratch / f"{stamps.index(file_of[place].stamp)}-{place.name}"
        with room:
            try:
                fetch(file_of[place], file)
                return read_shard(file)
            finally:
                file.unlink(missing_ok=True)

    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process, which indexes shards")
        lock.acquire()
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        check_disk(folder, min(shards.budget, shards.num_bytes), way_out="lower data.stream_gb, or set IMGCLS_CACHE")
        log.info(
            "indexing %d shards: all %.1f GB of them are fetched once for it, and not kept; the index is",
            len(stamps), shards.num_bytes / 1e9,
        )  # fmt: skip
        return index_files(places, read, kind=KIND, stamps=stamps)  # which logs how long it took
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


def _gb(num_bytes: int) -> str:
    """Return gigabytes with three digits, rounded up."""
    unit = 10.0 ** (math.floor(math.log10(num_bytes)) - 2)
    return f"{math.ceil(num_bytes / unit - 1e-9) * unit / 1e9:.3g}"
