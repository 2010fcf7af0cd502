"""Checksums of image files, kept in the cache folder: two sets of the same names and other bytes are two sets.

`verify_data` reads every file and keeps what it found, for as long as no file changes its size or time of change.
"""

import dataclasses
import hashlib
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls.data.sets.files import FileSplit
from imgcls.data.sets.splits import UNKNOWN, ImageSet, checksums_of
from imgcls.environment import cache_file, command, keep

WHAT = "what was verified"
VERSION = 1


class Verified(NamedTuple):
    """What is known of the files of a folder, an archive or a pack, sorted by `keys`."""

    keys: np.ndarray  # uint64, of the names
    checksums: np.ndarray  # uint64, of the bytes
    odd: np.ndarray  # uint8, flags: what is unusual about the file
    sizes: np.ndarray  # int64, bytes on disk
    times: np.ndarray  # int64, of the last change, in ns

    def of(self, keys: np.ndarray, stamps: "Stamps") -> tuple[np.ndarray, np.ndarray]:
        """Return the places here of images (N,), and which of them (N,) bool are known and not changed since."""
        places = np.minimum(np.searchsorted(self.keys, keys), max(len(self.keys) - 1, 0))
        if not len(self.keys):
            return places, np.zeros(len(keys), bool)
        same = (self.sizes[places] == stamps.sizes) & (self.times[places] == stamps.times)
        return places, (self.keys[places] == keys) & same

    @classmethod
    def nothing(cls) -> "Verified":
        """Return that no file is known."""
        empty = np.empty(0, np.int64)
        return cls(empty.astype(np.uint64), empty.astype(np.uint64), empty.astype(np.uint8), empty, empty)


class Stamps(NamedTuple):
    """Size and time of change of the file that holds each image, (N,) each; -1 of one that cannot be looked at."""

    sizes: np.ndarray
    times: np.ndarray


def checksum_of(data: bytes) -> int:
    """Return the checksum of a file's bytes: 64 bits of BLAKE2b; never that of an unknown file."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") or 1


def keys_of(split: FileSplit) -> np.ndarray:
    """Return a key for the name of each image, (N,) uint64; of a million they take seconds, and are kept."""
    if "keys" not in split.kept:
        keys = (checksum_of(split.key(index)) for index in range(len(split)))
        split.kept["keys"] = np.fromiter(keys, np.uint64, len(split))
    return split.kept["keys"]


def stamps_of(split: FileSplit) -> Stamps:
    """Return size and time of change of the file that holds each image, as they were when this was first asked.

    A pack's are those of all its images. A file that changes later is found to have changed by the next command.
    """
    if "stamps" not in split.kept:
        split.kept["stamps"] = np.array([_stamp(file) for file in split.files()], np.int64).reshape(-1, 2)
    each = split.kept["stamps"][split.holders()]
    return Stamps(each[:, 0], each[:, 1])


def _stamp(file: bytes) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:  # for the reader to name
        return -1, -1
    return status.st_size, status.st_mtime_ns


def load_verified(split: FileSplit) -> Verified | None:
    """Return what is known of the files below the root of a split, or None."""
    file = _cache_file(split)
    try:
        if file is None:
            return None
        with np.load(file, allow_pickle=False) as kept:
            found = Verified(*(kept[name] for name in Verified._fields))
        return found if len({len(array) for array in found}) == 1 else None
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile):  # absent or torn
        return None


def save_verified(split: FileSplit, found: Verified) -> None:
    """Keep what is known of files below the root of a split, beside what was known of others."""
    before = load_verified(split) or Verified.nothing()
    others = ~np.isin(before.keys, found.keys)
    both = [np.concatenate([old[others], new]) for old, new in zip(before, found, strict=True)]
    order = np.argsort(both[0], kind="stable")
    parts = dict(zip(Verified._fields, (array[order] for array in both), strict=True))
    keep(_cache_file(split), lambda stream: np.savez(stream, allow_pickle=False, **parts), what=WHAT)


def with_checksums(images: ImageSet) -> ImageSet:
    """Give the files of a set the checksums that verify_data kept, where it has read them and they have not changed."""
    for split in {id(split): split for split in (images.train, images.val)}.values():
        if isinstance(split, FileSplit) and (verified := load_verified(split)) is not None:
            places, known = verified.of(keys_of(split), stamps_of(split))
            if known.any():
                split.checksums = np.where(known, verified.checksums[places], UNKNOWN)
    return images


def with_note_on_checksums(images: ImageSet) -> ImageSet:
    """Return the set with a note on whether its files' checksums are known."""
    given = [getattr(split, "checksums", None) for split in (images.train, images.val)]
    counts = [int(np.count_nonzero(checksums != UNKNOWN)) for checksums in given if checksums is not None]
    if not sum(counts):
        return images
    if all(checksums_of(split) is not None for split in (images.train, images.val)):
        note = "the checksums of all files are known: a set of the same names and other files is not taken for this one"
    else:
        num_files = len(images.train) + len(images.val)
        note = (
            f"the checksums of {sum(counts):,} of {num_files:,} files are known, so that none is compared; run "
            f"{command('verify_data')} again"
        )
    return dataclasses.replace(images, notes=(*images.notes, note))


def _cache_file(split: FileSplit) -> Path | None:
    return cache_file("verified", b"%d " % VERSION + os.path.realpath(split.root), ".npz", what=WHAT)
