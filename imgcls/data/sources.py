"""Where images come from: a split is labels, and images by index; an image set is two splits over the same classes."""

import dataclasses
import difflib
import os
import stat
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgcls.data.decode import BadImageError

if TYPE_CHECKING:
    from imgcls.data.native import Sizes, Workspace


class FolderSplit:
    """Image files in one folder per class, as packed arrays: a million files cost megabytes, not a million objects.

    `names` holds every path relative to `root` one after another, as bytes; file i's are offsets[i]:offsets[i + 1].
    """

    def __init__(self, root: str | Path, names: np.ndarray, offsets: np.ndarray, labels: np.ndarray) -> None:
        self.root = os.fsencode(root)
        self.names = names  # uint8
        self.offsets = offsets  # int64, one more than there are files
        self.labels = labels.astype(np.int64, copy=False)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Where image `index` lies, as the user would type it."""
        return os.fsdecode(self.raw_path(index))

    def read(self, index: int) -> bytes:
        """The bytes of the file of image `index`.

        Raises:
            BadImageError: it cannot be read, tried twice: network filesystems fail now and then.
        """
        path = self.raw_path(index)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for its writer for ever
                raise BadImageError(os.fsdecode(path), "is no regular file")
            return _read_file(path)
        except FileNotFoundError:
            raise BadImageError(os.fsdecode(path), "is gone since the folder was listed") from None
        except OSError:
            time.sleep(0.05)
        try:
            return _read_file(path)
        except OSError as error:
            raise BadImageError(os.fsdecode(path), f"cannot be read: {error.strerror or error}") from error

    def open_in(self, space: "Workspace", indices: np.ndarray) -> "Sizes":
        """Have the native decoder read the files of images `indices`; what it cannot read is `read`'s to name."""
        return space.open_files([self.raw_path(index) for index in indices.tolist()])

    def raw_path(self, index: int) -> bytes:
        """The same as the filesystem has it."""
        return self.root + b"/" + self.name(index)

    def name(self, index: int) -> bytes:
        """Its path below the root."""
        return self.names[self.offsets[index] : self.offsets[index + 1]].tobytes()


class PackSplit:
    """Image files one after another in a single file: image i's bytes are starts[i] on, lengths[i] of them.

    `names` holds what the files were called one after another; image i's are name_offsets[i]:name_offsets[i + 1].
    """

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
        self.root = os.fsencode(file)
        self.starts = starts  # int64
        self.lengths = lengths  # uint32
        self.names = names  # uint8
        self.name_offsets = name_offsets  # int64
        self.labels = labels.astype(np.int64, copy=False)
        # Open as long as the split lives.
        self._open = open(file, "rb", buffering=0)  # noqa: SIM115

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """What image `index` was before it was packed."""
        return os.fsdecode(self.root + b":" + self.name(index))

    def name(self, index: int) -> bytes:
        """What it was called in the set that was packed."""
        return self.names[self.name_offsets[index] : self.name_offsets[index + 1]].tobytes()

    def read(self, index: int) -> bytes:
        """The bytes of image `index`, read rather than mapped: an error of the disk is an error, not a signal.

        Raises:
            BadImageError: they cannot be read.
        """
        try:
            data = self._read(index)
        except OSError as error:
            raise BadImageError(self.path(index), f"cannot be read: {error.strerror or error}") from error
        if len(data) != self.lengths[index]:
            raise BadImageError(self.path(index), "the pack ends before it; pack it again")
        return data

    def open_in(self, space: "Workspace", indices: np.ndarray) -> "Sizes":
        """Have the native decoder hold the bytes of images `indices`; what cannot be read is `read`'s to name."""
        return space.open_bytes([self._read_or_none(index) for index in indices.tolist()])

    def _read(self, index: int) -> bytes:
        return os.pread(self._open.fileno(), int(self.lengths[index]), int(self.starts[index]))

    def _read_or_none(self, index: int) -> bytes | None:
        try:
            return self.read(index)
        except BadImageError:
            return None


class ArraySplit:
    """Images of one size, already decoded: (N, H, W, C) uint8."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, name: str = "array") -> None:
        self.images = images
        self.labels = labels.astype(np.int64, copy=False)
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """What to call image `index`."""
        return f"{self.name}[{index}]"


FileSplit = FolderSplit | PackSplit
Split = FileSplit | ArraySplit


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """What is trained and validated on; a label is a position in `classes`."""

    train: Split
    val: Split
    classes: list[str]
    channels: int

    def identity(self) -> dict[str, Any]:
        """What tells this set from others, wherever it lies: counts, and a checksum of names, labels and arrays."""
        checksum = zlib.crc32("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for split in (self.train, self.val):
            content = split.images if isinstance(split, ArraySplit) else split.names
            for array in (content, split.labels):
                checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return {
            "classes": len(self.classes),
            "training images": len(self.train),
            "validation images": len(self.val),
            "checksum": f"{checksum:08x}",
        }

    def check_num_classes(self, num_classes: int | None) -> int:
        """The number of classes, held against what the config says.

        Raises:
            ValueError: the config names another number.
        """
        found = len(self.classes)
        if num_classes is not None and num_classes != found:
            raise ValueError(
                f"data.num_classes={num_classes} but the data has {found} classes "
                f"({', '.join(self.classes[:3])}, ...); set data.num_classes=null to follow the data"
            )
        return found


def arrays(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], classes: Sequence[str], *, name: str
) -> ImageSet:
    """An image set from (images, labels) pairs held in memory; images (N, H, W, C) uint8."""
    return ImageSet(
        train=ArraySplit(*train, name=f"{name}/train"),
        val=ArraySplit(*val, name=f"{name}/val"),
        classes=list(classes),
        channels=train[0].shape[3],
    )


def nearest(name: str, names: Sequence[str]) -> str:
    """A hint in words at the most similar of `names`, or nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (nearest: {close[0]!r})" if close else ""


def _read_file(path: bytes) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()
