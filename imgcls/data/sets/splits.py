"""Where images come from: a split is labels, and images by index; an image set is two splits over the same classes."""

import dataclasses
import hashlib
import logging
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from imgcls.data.decoding import Failures, Plan, Reader, make_array_reader
from imgcls.environment import launch
from imgcls.runs import CONTENT

log = logging.getLogger(__name__)
UNKNOWN = np.uint64(0)  # instead of a checksum


class Split(Protocol):
    """Images by index and their labels. A new container of images implements this; nothing else knows its kind."""

    labels: np.ndarray  # (N,) int64

    def __len__(self) -> int: ...

    def path(self, index: int) -> str:
        """Return the name of image `index`, as the user would type it."""
        ...

    def pixels(self, index: int, channels: int) -> np.ndarray:
        """Return image `index` whole: (H, W, C) uint8.

        Raises:
            BadImageError: it cannot be read or decoded.
        """
        ...

    def make_reader(self, plan: Plan, channels: int, *, cache_gb: float) -> Reader:
        """Return what fills batch buffers with the crops of `plan`.

        Raises:
            ValueError: the images do not have `channels`.
        """
        ...

    def content(self) -> list[np.ndarray]:
        """Return the arrays that tell this split from another, wherever it is stored: names or pixels, and labels."""
        ...

    def fingerprint(self) -> str:
        """Return a digest that changes when the images do: of files, their place, names, sizes and times of change."""
        ...

    @property
    def decoded(self) -> np.ndarray | None:
        """All images as one array (N, H, W, C) uint8, if they are in memory decoded; otherwise None."""
        ...


class ArraySplit:
    """Images of one size, already decoded: (N, H, W, C) uint8."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, name: str = "array") -> None:
        self.images = images
        self.labels = labels.astype(np.int64, copy=False)
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Return `mnist/train[5]`: the name of the set and the image's place in it."""
        return f"{self.name}[{index}]"

    def pixels(self, index: int, channels: int) -> np.ndarray:
        """Return image `index`: (H, W, C) uint8."""
        del channels  # those of the array, as make_reader checks
        return self.images[index]

    def make_reader(self, plan: Plan, channels: int, *, cache_gb: float) -> Reader:
        """Return what fills batch buffers with the crops of `plan`.

        Raises:
            ValueError: the images do not have `channels`.
        """
        del cache_gb  # they are in memory already
        if self.images.shape[3] != channels:
            raise ValueError(f"data.channels={channels} but the images have {self.images.shape[3]}; set it to that")
        return make_array_reader(self.images, plan)

    def content(self) -> list[np.ndarray]:
        """Return the images and the labels."""
        return [self.images, self.labels]

    def fingerprint(self) -> str:
        """Return a digest of the pixels."""
        return hashlib.sha256(self.images.tobytes()).hexdigest()[:16]

    @property
    def decoded(self) -> np.ndarray:
        """The images: (N, H, W, C) uint8."""
        return self.images


class SelectedSplit:
    """Some images of a split: image i is `indices[i]` of it."""

    def __init__(self, whole: Split, indices: np.ndarray) -> None:
        self.whole = whole
        self.indices = indices
        self.labels = whole.labels[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def path(self, index: int) -> str:
        """Return the name of image `index`, as the user would type it."""
        return self.whole.path(int(self.indices[index]))

    def pixels(self, index: int, channels: int) -> np.ndarray:
        """Return image `index` whole: (H, W, C) uint8."""
        return self.whole.pixels(int(self.indices[index]), channels)

    def make_reader(self, plan: Plan, channels: int, *, cache_gb: float) -> Reader:
        """Return what fills batch buffers with the crops of `plan`."""
        reader = self.whole.make_reader(plan, channels, cache_gb=cache_gb)
        return SelectedReader(reader, self.indices, num_whole=len(self.whole))

    def content(self) -> list[np.ndarray]:
        """Return what tells the whole split from others, and which of its images these are."""
        return [*self.whole.content(), self.indices]

    def fingerprint(self) -> str:
        """Return a digest that changes when the images do."""
        return hashlib.sha256(self.whole.fingerprint().encode() + self.indices.tobytes()).hexdigest()[:16]

    @property
    def checksums(self) -> np.ndarray | None:
        """(N,) uint64, of the files' bytes, where they are known."""
        checksums = getattr(self.whole, "checksums", None)
        return None if checksums is None else checksums[self.indices]

    @property
    def decoded(self) -> np.ndarray | None:
        """The images (N, H, W, C) uint8, if they are in memory decoded; otherwise None."""
        return None if self.whole.decoded is None else self.whole.decoded[self.indices]


class SelectedReader:
    """Fills batch buffers from the images `indices` of a split of `num_whole`, which `reader` reads."""

    def __init__(self, reader: Reader, indices: np.ndarray, *, num_whole: int) -> None:
        self.reader = reader
        self.indices = indices
        self.num_whole = num_whole
        self.chunk_size = reader.chunk_size

    def fill(self, plan: Plan, epoch: int, indices: np.ndarray, out: np.ndarray) -> Failures:
        """Write the planned crops of images `indices` (n,) into `out` (n, H, W, C) uint8."""
        again, places = np.divmod(indices, len(self.indices))  # an index beyond the end is another crop of an image
        return self.reader.fill(plan, epoch, self.indices[places] + again * self.num_whole, out)


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """The images to train and validate on; a label is a position in `classes`.

    Args:
        notes, warnings: what the user should know of how the set was read, for the first lines of a log.
    """

    train: Split
    val: Split
    classes: list[str]
    channels: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Return what tells this set from others, wherever it is stored: counts, and a checksum of names and labels."""
        checksum = zlib.crc32("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for split in (self.train, self.val):
            for array in split.content():
                checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        identity = {
            "classes": len(self.classes),
            "training images": len(self.train),
            "validation images": len(self.val),
            "checksum": f"{checksum:08x}",
        }
        digest = hashlib.sha256()
        for split in (self.train, self.val):
            if (of_files := checksums_of(split)) is None:
                return identity
            digest.update(of_files.tobytes())
        return identity | {CONTENT: digest.hexdigest()[:16]}

    def log_notes(self) -> None:
        """Log what the user should know of how the set was read."""
        for note in self.notes:
            log.info("data     %s", note)
        if (launch() or (0,))[0] == 0:  # other ranks log warnings too
            for warning in self.warnings:
                log.warning("data     %s", warning)

    def check_num_classes(self, num_classes: int | None) -> int:
        """Return the number of classes.

        Raises:
            ValueError: the config names another number.
        """
        number = len(self.classes)
        if num_classes is not None and num_classes != number:
            raise ValueError(
                f"data.num_classes={num_classes} but the data has {number} classes "
                f"({', '.join(self.classes[:3])}, ...); set data.num_classes=null to follow the data"
            )
        return number


def checksums_of(split: Split) -> np.ndarray | None:
    """Return a checksum of the bytes of each file of a split, (N,) uint64, where verify_data has read them all."""
    checksums = getattr(split, "checksums", None)
    return None if checksums is None or (checksums == UNKNOWN).any() else checksums


def image_set_of_arrays(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], classes: Sequence[str], *, name: str
) -> ImageSet:
    """Return an image set of (images, labels) pairs in memory; images are (N, H, W, C) uint8."""
    return ImageSet(
        train=ArraySplit(*train, name=f"{name}/train"),
        val=ArraySplit(*val, name=f"{name}/val"),
        classes=list(classes),
        channels=train[0].shape[3],
    )


def to_memorise(images: ImageSet, num_images: int) -> ImageSet:
    """Return so many training images of a set, of all classes alike, as both its training and its validation images.

    A network that works learns them by heart: whatever the set, a run on them proves reading, loss and steps.
    """
    labels = images.train.labels
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - starts  # how many images of its class come before each
    chosen = np.sort(np.lexsort((labels, turn))[:num_images])
    split = SelectedSplit(images.train, chosen)
    return dataclasses.replace(images, train=split, val=split)
