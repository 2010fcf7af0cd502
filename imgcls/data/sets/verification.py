"""Read and decode every file of a set: which are damaged, which are unusual, and which are there twice."""

import collections
import csv
import enum
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls.data.decoding import BadImageError, Traits, decode_whole, format_of_ending, traits_of
from imgcls.data.sets.checksums import Stamps, Verified, checksum_of, keys_of, load_verified, save_verified, stamps_of
from imgcls.data.sets.files import FileSplit
from imgcls.data.sets.splits import ImageSet, SelectedSplit, Split

SAVE_EVERY = 10.0  # seconds of reading that a kill may lose
AT_A_TIME = 256  # images between two looks at the clock
SMALLEST_SIDE = 8  # pixels; a smaller image is a mistake more often than not
_ODD_FILES = Path(__file__).with_name("imagenet_odd_files.csv")


class Odd(enum.IntFlag):
    """What is unusual about a file that can be decoded; the values are kept in the cache folder."""

    OTHER_KIND = 1
    CMYK = 2
    TURNED = 4
    TRANSPARENT = 8
    DEEP = 16
    TINY = 32
    DAMAGED = 64  # read, and not decoded


KNOWN_ODD = {"PNG": Odd.OTHER_KIND, "CMYK": Odd.CMYK}
ODD_TEXTS = {
    Odd.OTHER_KIND: "of another kind than the name says; read by content",
    Odd.CMYK: "CMYK, shown as RGB",
    Odd.TURNED: "with an EXIF orientation, which data.orientation=apply turns",
    Odd.TRANSPARENT: "transparent: data.alpha=white or black covers what is hidden",
    Odd.DEEP: "of more than 8 bits a channel: see data.bits",
    Odd.TINY: f"with a side of fewer than {SMALLEST_SIDE} pixels",
}


@functools.cache
def known_odd_files() -> dict[str, str]:
    """Return the files of ImageNet's training images that are known to be odd, each with its kind: CMYK or PNG.

    After https://github.com/cytsai/ilsvrc-cmyk-image-list.
    """
    with _ODD_FILES.open(newline="") as file:
        return {row["file"]: row["kind"] for row in csv.DictReader(file)}


class Place(NamedTuple):
    """An image of a set: train or val, its path, and its label."""

    part: str
    path: str
    label: int


@dataclass
class Verification:
    """What was found in a set."""

    num_images: int = 0
    num_read: int = 0  # now, and not in an earlier call
    bad: list[tuple[Place, BadImageError]] = field(default_factory=list)
    odd: dict[Odd, list[Place]] = field(default_factory=lambda: collections.defaultdict(list))
    same: list[list[Place]] = field(default_factory=list)  # groups of files with the same bytes
    checksums: dict[str, int] = field(default_factory=dict)  # by path

    def in_both_parts(self) -> list[list[Place]]:
        """Return the groups of files that are both in train and in val."""
        return [group for group in self.same if len({place.part for place in group}) > 1]

    def of_two_classes(self) -> list[list[Place]]:
        """Return the groups of files with several labels."""
        return [group for group in self.same if len({place.label for place in group}) > 1]

    def within_a_class(self) -> list[list[Place]]:
        """Return the other groups: files of one class, all in train or all in val."""
        return [group for group in self.same if len({(place.part, place.label) for place in group}) == 1]


def verify(
    images: ImageSet, *, channels: int, num_threads: int, progress: Callable[[int], object] = lambda num: None
) -> Verification:
    """Read and decode each file of a set that is not known to be good, and keep what is found in the cache folder.

    Broken off, another call goes on. Images in memory have nothing to verify.

    Args:
        progress: called with a number of images that have been looked at.
    """
    found, checksums = Verification(), []
    for part, split in (("train", images.train), ("val", images.val)):
        if part == "val" and images.val is images.train:
            continue
        files, indices = files_of(split)
        found.num_images += len(split)
        if files is None:
            progress(len(split))
            continue
        one = _FileCheck(files, indices, channels)
        found.num_read += one.run(num_threads, progress)
        places = [Place(part, split.path(index), int(split.labels[index])) for index in range(len(split))]
        found.bad += [(places[position], error) for position, error in sorted(one.bad.items())]
        for flag in ODD_TEXTS:
            found.odd[flag] += [places[position] for position in np.flatnonzero(one.odd & flag).tolist()]
        good = [position for position in range(len(split)) if position not in one.bad]
        checksums += [(int(one.checksums[position]), places[position]) for position in good]
    by_checksum: dict[int, list[Place]] = {}
    for checksum, place in checksums:
        by_checksum.setdefault(checksum, []).append(place)
        found.checksums[place.path] = checksum
    found.same = [group for group in by_checksum.values() if len(group) > 1]
    return found


def files_of(split: Split) -> tuple[FileSplit | None, np.ndarray]:
    """Return the files of a split, and the positions there of its images (N,); None for images in memory."""
    if isinstance(split, SelectedSplit):
        files, indices = files_of(split.whole)
        return files, indices[split.indices]
    return split if isinstance(split, FileSplit) else None, np.arange(len(split))


class _FileCheck:
    """The check of the files `indices` (N,) of a split, by their positions 0 to N - 1."""

    def __init__(self, split: FileSplit, indices: np.ndarray, channels: int) -> None:
        self.split, self.indices, self.channels = split, indices, channels
        self.keys = keys_of(split)[indices]
        self.stamps = Stamps(*(stamp[indices] for stamp in stamps_of(split)))
        self.checksums = np.zeros(len(indices), np.uint64)
        self.odd = np.zeros(len(indices), np.uint8)
        self.bad: dict[int, BadImageError] = {}
        self._known = np.zeros(len(indices), bool)
        if (before := load_verified(split)) is not None:
            places, self._known = before.of(self.keys, self.stamps)
            if len(before.keys):
                self._known &= before.odd[places] & Odd.DAMAGED == 0
            self.checksums[self._known] = before.checksums[places[self._known]]
            self.odd[self._known] = before.odd[places[self._known]]

    def run(self, num_threads: int, progress: Callable[[int], object]) -> int:
        """Look at each file that is not known, and return how many those are."""
        waiting = np.flatnonzero(~self._known)
        progress(len(self.indices) - len(waiting))
        saved_at = time.monotonic()
        try:
            with ThreadPoolExecutor(num_threads, thread_name_prefix="imgcls-verify") as pool:
                for first in range(0, len(waiting), AT_A_TIME):
                    some = waiting[first : first + AT_A_TIME].tolist()
                    for position, outcome in zip(some, pool.map(self._look, some), strict=True):
                        self._note(position, outcome)
                        progress(1)
                    if time.monotonic() - saved_at > SAVE_EVERY:
                        self._save()
                        saved_at = time.monotonic()
        finally:
            self._save()
        return len(waiting)

    def _look(self, position: int) -> "_Outcome":
        index = int(self.indices[position])
        path, checksum = self.split.path(index), 0
        try:
            data = self.split.read(index)
            checksum = checksum_of(data)
            decode_whole(data, self.channels, path, self.split.rules)
            return _Outcome(checksum, _odd(traits_of(data, path), self.split.name(index)))
        except BadImageError as error:
            return _Outcome(checksum, Odd.DAMAGED, error)

    def _note(self, position: int, outcome: "_Outcome") -> None:
        self.checksums[position], self.odd[position] = outcome.checksum, outcome.odd
        self._known[position] = outcome.checksum != 0  # a file that cannot be read has none
        if outcome.error is not None:
            self.bad[position] = outcome.error

    def _save(self) -> None:
        good = self._known
        arrays = (self.keys, self.checksums, self.odd, self.stamps.sizes, self.stamps.times)
        save_verified(self.split, Verified(*(array[good] for array in arrays)))


class _Outcome(NamedTuple):
    checksum: int
    odd: Odd
    error: BadImageError | None = None


def _odd(traits: Traits, name: bytes) -> Odd:
    expected = format_of_ending(name)
    return (
        (Odd.OTHER_KIND if expected is not None and traits.format != expected else Odd(0))
        | (Odd.CMYK if traits.mode == "CMYK" else Odd(0))
        | (Odd.TURNED if traits.orientation != 1 else Odd(0))
        | (Odd.TRANSPARENT if traits.transparent else Odd(0))
        | (Odd.DEEP if traits.bits is not None else Odd(0))
        | (Odd.TINY if min(traits.size) < SMALLEST_SIDE else Odd(0))
    )


def odd_of_imagenet(found: Verification) -> Iterator[tuple[Place, str, bool]]:
    """Yield each file of the set that ImageNet has odd, with its kind, and whether it is so here as well."""
    odd = {flag: {place.path for place in found.odd[flag]} for flag in ODD_TEXTS}
    known = known_odd_files()
    for path in found.checksums:
        kind = known.get(path.rpartition("/")[2].rpartition(":")[2])
        if kind is not None:
            yield Place("train", path, -1), kind, path in odd[KNOWN_ODD[kind]]
