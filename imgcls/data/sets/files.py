"""Splits of image files: in folders, or one after another in a pack."""

import functools
import hashlib
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgcls.data.decoding import (
    AS_STORED,
    MAX_FILE_BYTES,
    BadImageError,
    PixelRules,
    Plan,
    Reader,
    decode_whole,
    has_end,
    has_readable_header,
    make_file_reader,
)
from imgcls.data.sets.listing import Listing, pack_names

if TYPE_CHECKING:
    from imgcls.data.decoding import Sizes, Workspace


HAS_PREAD = hasattr(os, "pread")  # not on Windows
HEAD_BYTES, TAIL_BYTES = 1 << 16, 1 << 11  # of a file that is checked before it is decoded


class FileSplit(ABC):
    """What splits of image files share. A subclass says where the bytes of an image are."""

    names: np.ndarray  # uint8, of all images, one after another
    labels: np.ndarray
    decoded: np.ndarray | None = None
    rules: PixelRules = AS_STORED
    checksums: np.ndarray | None = None  # (N,) uint64, of the files' bytes, where verify_data has read any
    takes_rules = True  # the files have what the rules decide on

    @functools.cached_property
    def kept(self) -> dict[str, np.ndarray]:
        """What is worked out once for all images: their keys, and the stamps of their files."""
        return {}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def root(self) -> bytes:
        """The folder or the file that holds the images."""

    @abstractmethod
    def name(self, index: int) -> bytes:
        """Return the name of image `index` below the root."""

    @abstractmethod
    def path(self, index: int) -> str:
        """Return the name of image `index`, as the user would type it."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`.

        Raises:
            BadImageError: they cannot be read.
        """

    @abstractmethod
    def open_in(self, space: "Workspace", indices: np.ndarray) -> "Sizes":
        """Load images `indices` into the native decoder's workspace; `read` names what it cannot read."""

    @abstractmethod
    def files(self) -> Iterable[bytes]:
        """Return the files on disk that hold the images."""

    @abstractmethod
    def holders(self) -> np.ndarray:
        """Return which of `files` holds each image: (N,) positions."""

    @abstractmethod
    def num_bytes(self, indices: np.ndarray) -> np.ndarray:
        """Return how many bytes on disk images `indices` (n,) take: (n,) int64; -1 of a file that is not there."""

    def key(self, index: int) -> bytes:
        """Return a name of image `index` that no other image below the root has."""
        return self.name(index)

    def pixels(self, index: int, channels: int) -> np.ndarray:
        """Return image `index` whole: (H, W, C) uint8.

        Raises:
            BadImageError: it cannot be read or decoded.
        """
        return decode_whole(self.read(index), channels, self.path(index), self.rules)

    def make_reader(self, plan: Plan, channels: int, *, cache_gb: float) -> Reader:
        """Return what fills batch buffers with the crops of `plan`, which gives its boxes once the sizes are known."""
        del plan
        return make_file_reader(self, channels, cache_gb=cache_gb)

    def content(self) -> list[np.ndarray]:
        """Return the names and the labels."""
        return [self.names, self.labels]

    def fingerprint(self) -> str:
        """Return a digest of the files' place, names, sizes and times of change."""
        digest = hashlib.sha256(self.names.tobytes())
        digest.update(os.path.abspath(self.root))
        for file in self.files():
            try:
                stat = os.stat(file)
            except OSError:  # for the reader to name
                continue
            digest.update(f"{stat.st_size} {stat.st_mtime_ns};".encode())
        return digest.hexdigest()[:16]


class FolderSplit(FileSplit):
    """Image files in one folder per class, as packed arrays: a million files cost megabytes, not a million objects.

    `names` holds every path relative to `root` one after another, as bytes; file i's are offsets[i]:offsets[i + 1].
    """

    removed: frozenset[int] = frozenset()  # positions of images whose files the user has removed since the run began

    def __init__(self, root: str | Path, names: np.ndarray, offsets: np.ndarray, labels: np.ndarray) -> None:
        self._root = os.fsencode(root)
        self.names = names  # uint8
        self.offsets = offsets  # int64, one more than there are files
        self.labels = labels.astype(np.int64, copy=False)

    @classmethod
    def of_listing(cls, root: str | Path, listing: Listing) -> "FolderSplit":
        """Return the images of a listed folder, with the classes as labels."""
        return cls(root, listing.names, listing.offsets, listing.labels)

    @classmethod
    def of_names(cls, root: str | Path, names: Sequence[bytes], labels: np.ndarray | None = None) -> "FolderSplit":
        """Return files by their paths below `root`, with labels (N,) of any integer type; None: all 0."""
        return cls(root, *pack_names(names), np.zeros(len(names)) if labels is None else labels)

    @classmethod
    def of_files(cls, files: Sequence[str | Path]) -> "FolderSplit":
        """Return files anywhere, all with label 0."""
        # The root is /, which raw_path adds.
        return cls.of_names("", [os.fsencode(os.path.abspath(file))[1:] for file in files])

    def holds(self, name: bytes) -> bool:
        """Return True if an image has that name."""
        names, at = self.names.tobytes(), -1
        while (at := names.find(name, at + 1)) >= 0:
            place = int(np.searchsorted(self.offsets, at))
            if self.offsets[place] == at and place < len(self) and self.offsets[place + 1] == at + len(name):
                return True
        return False

    def with_removed(self, entries: Sequence[tuple[int, bytes, int]]) -> "FolderSplit":
        """Return the images with some that are no longer there in their places: (position, name, label) of each."""
        if not entries:
            return self
        names, labels = [self.name(index) for index in range(len(self))], self.labels.tolist()
        for position, name, label in sorted(entries):
            names.insert(position, name)
            labels.insert(position, label)
        split = type(self).of_names(os.fsdecode(self.root), names, np.array(labels, np.int64))
        split.rules, split.removed = self.rules, frozenset(position for position, _, _ in entries)
        return split

    def subset(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "FolderSplit":
        """Return some of the images, in the order of `indices` (N,), with other labels (N,) if given."""
        names = [self.name(index) for index in indices.tolist()]
        chosen = type(self).of_names(os.fsdecode(self.root), names, self.labels[indices] if labels is None else labels)
        chosen.rules = self.rules
        chosen.checksums = None if self.checksums is None else self.checksums[indices]
        return chosen

    @property
    def root(self) -> bytes:
        """The folder that the names are relative to."""
        return self._root

    def files(self) -> Iterable[bytes]:
        """Return the path of every image."""
        return map(self.raw_path, range(len(self)))

    def holders(self) -> np.ndarray:
        """Return numbers of the files that hold the images, (N,): each image has a file."""
        return np.arange(len(self))

    def num_bytes(self, indices: np.ndarray) -> np.ndarray:
        """Return the sizes of the files of images `indices` (n,): (n,) int64; -1 of a file that is not there."""
        return np.array([file_size(self.raw_path(index)) for index in indices.tolist()], np.int64)

    def path(self, index: int) -> str:
        """Return the path of image `index`, as the user would type it."""
        return os.fsdecode(self.raw_path(index))

    def check(self, index: int) -> None:
        """Look at the header of the file of image `index`; at all of it only where its end is missing.

        Raises:
            BadImageError: it is no image, or is cut off.
        """
        path = self.raw_path(index)
        self._check_regular(path)
        try:
            with open(path, "rb", buffering=0) as file:
                head = file.read(HEAD_BYTES)
                file.seek(-min(TAIL_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
                seems_whole = has_readable_header(head) and has_end(head, file.read())
        except OSError:  # named by read, after a second try
            seems_whole = False
        if not seems_whole:
            decode_whole(self.read(index), 3, os.fsdecode(path))

    def read(self, index: int) -> bytes:
        """Return the bytes of the file of image `index`.

        Raises:
            BadImageError: it cannot be read in two tries: network filesystems fail now and then.
        """
        path = self.raw_path(index)
        try:
            self._check_regular(path)
            return self.read_file(path)
        except OSError:
            time.sleep(0.05)
        try:
            return self.read_file(path)
        except OSError as error:
            raise BadImageError(os.fsdecode(path), f"cannot be read: {error.strerror or error}") from error

    def _check_regular(self, path: bytes) -> None:
        name = os.fsdecode(path)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            reason = "is a link to nothing" if os.path.islink(path) else "is gone since the folder was listed"
            raise BadImageError(name, reason) from None
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its writer for ever
            raise BadImageError(name, "is no regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise BadImageError(
                name, f"has {status.st_size} bytes, over the limit of {MAX_FILE_BYTES}; make it smaller"
            )

    def read_file(self, path: bytes) -> bytes:
        """Return the bytes of a file, in one try; a subclass may read in other ways."""
        with open(path, "rb", buffering=0) as file:
            return file.readall()

    def open_in(self, space: "Workspace", indices: np.ndarray) -> "Sizes":
        """Load images `indices` into the native decoder's workspace, which reads the files."""
        return space.open_files([self.raw_path(index) for index in indices.tolist()])

    def raw_path(self, index: int) -> bytes:
        """Return the path of image `index`, as the filesystem has it."""
        return self.root + b"/" + self.name(index)

    def name(self, index: int) -> bytes:
        """Return the path of image `index` below the root."""
        return self.names[self.offsets[index] : self.offsets[index + 1]].tobytes()


class FlatSplit(FolderSplit):
    """Image files in one folder, named as they would be in folders of their classes: <class>/<file>."""

    def raw_path(self, index: int) -> bytes:
        """Return the path of image `index`, as the filesystem has it."""
        return self.root + b"/" + self.name(index).rpartition(b"/")[2]


class PackSplit(FileSplit):
    """Image files one after another in a single file: image i's bytes are starts[i] on, lengths[i] of them.

    `names` holds what the files were called one after another; image i's are name_offsets[i]:name_offsets[i + 1].
    """

    cut_short = "the pack ends before it; pack it again"

    def __init__(
        self,
        file: str | Path,
        *,
        starts: np.ndarray,
        lengths: np.ndarray,
        names: np.ndarray,
        name_offsets: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        self._root = os.fsencode(file)
        self.starts = starts  # int64
        self.lengths = lengths  # uint32
        self.names = names  # uint8
        self.name_offsets = name_offsets  # int64
        self.labels = labels.astype(np.int64, copy=False)
        # Kept open for as long as the split exists.
        self._open = open(file, "rb", buffering=0)  # noqa: SIM115

    @property
    def root(self) -> bytes:
        """The pack."""
        return self._root

    def files(self) -> Iterable[bytes]:
        """Return the pack alone."""
        return [self._root]

    def holders(self) -> np.ndarray:
        """Return that all images are in the first file: (N,)."""
        return np.zeros(len(self), np.int64)

    def num_bytes(self, indices: np.ndarray) -> np.ndarray:
        """Return the lengths of images `indices` (n,) in the pack: (n,) int64."""
        return self.lengths[indices].astype(np.int64)

    def path(self, index: int) -> str:
        """Return the pack and the name of image `index`, joined by a colon."""
        return os.fsdecode(self.root + b":" + self.name(index))

    def name(self, index: int) -> bytes:
        """Return the name of image `index` in the set that was packed."""
        return self.names[self.name_offsets[index] : self.name_offsets[index + 1]].tobytes()

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`, read rather than mapped: a disk error is an exception, not a signal.

        Raises:
            BadImageError: they cannot be read.
        """
        try:
            data = self._read(index)
        except OSError as error:
            raise BadImageError(self.path(index), f"cannot be read: {error.strerror or error}") from error
        if len(data) != self.lengths[index]:
            raise BadImageError(self.path(index), self.cut_short)
        return data

    def open_in(self, space: "Workspace", indices: np.ndarray) -> "Sizes":
        """Load images `indices` into the native decoder's workspace."""
        if HAS_PREAD:
            handles = [self._open.fileno()] * len(indices)
            return space.open_ranges(handles, self.starts[indices], self.lengths[indices])
        return space.open_bytes([self._read_or_none(index) for index in indices.tolist()])

    def _read(self, index: int) -> bytes:
        return os.pread(self._open.fileno(), int(self.lengths[index]), int(self.starts[index]))

    def _read_or_none(self, index: int) -> bytes | None:
        try:
            return self.read(index)
        except BadImageError:
            return None


def file_size(path: bytes) -> int:
    """Return the size of a file in bytes, -1 if it is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
