"""The list of a folder's image files, kept in the cache folder for the next run."""

import collections
import json
import logging
import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls.data.decoding import FORMATS, ending_of, is_image
from imgcls.environment import cache_file, keep

log = logging.getLogger(__name__)
WHAT = "the list of files"
_KINDS = " ".join(FORMATS).encode()  # a list is of the kinds of files that were images when it was made
LINKS_TO_NOTHING = "links to nothing"  # among the endings of files that are left out
NAMES_AT_ONCE = 1 << 16  # that are prefixed in one step, so that it needs little memory
SETTLED_SECONDS = 2.0  # a folder changed less than this before it was listed may change again under the same mtime


class Listing(NamedTuple):
    """The image files below a folder, packed; and its sub-folders, which are the classes."""

    names: np.ndarray  # uint8, paths relative to the folder, one after another
    offsets: np.ndarray  # int64
    labels: np.ndarray  # int32
    classes: list[str]
    num_stray: int  # images in the folder itself, in no class
    left_out: list[dict[str, int]]  # files that are no images, by ending: of each class, then of the folder itself

    def num_left_out(self) -> dict[str, int]:
        """Return how many files of each ending are no images."""
        return dict(sum(map(collections.Counter, self.left_out), collections.Counter[str]()))


def list_folder(path: Path) -> Listing:
    """List `path`, from the cache where no folder has changed since.

    Raises:
        ValueError: a link among its folders leads back to one that holds it.
    """
    real = os.fsencode(os.path.realpath(path))  # the same list by whatever name, from wherever it is asked for
    cached = cache_file("lists", _KINDS + real, ".npz", what=WHAT)
    if cached is not None and (listing := _load(cached)) is not None:
        return listing
    started = time.time()
    listing, folders = _scan(real)
    stamps = _stamps(folders)
    if cached is not None and stamps.max(initial=0) < (started - SETTLED_SECONDS) * 1e9:
        _save(cached, listing, folders, stamps)
    log.info("listed %d images below %s in %.1f s", len(listing.labels), path, time.time() - started)
    return listing


def _scan(top: bytes) -> tuple[Listing, list[bytes]]:
    class_names: list[bytes] = []
    num_stray = 0
    stray: collections.Counter[str] = collections.Counter()
    with _entries_of(top) as entries:
        for entry in entries:
            if _is_passed_over(entry.name):
                continue
            if _is_folder(entry):
                class_names.append(entry.name)
            elif is_image(entry.path):
                num_stray += 1
            elif _is_dangling(entry):  # perhaps a class, without which the labels of others would be other ones
                raise ValueError(
                    f"{os.fsdecode(entry.path)} is a link to nothing; restore what it links to, or remove the link"
                )
            else:
                stray[ending_of(entry.name)] += 1
    class_names.sort()
    folders = [top]
    blobs, lengths, labels, left_out = [], [], [], []
    for label, name in enumerate(class_names):
        left_out.append(collections.Counter[str]())
        files = _files_below(top, name, folders, left_out[-1], above=[_identity(top)])
        blobs.append(b"".join(files))
        lengths.append(np.fromiter(map(len, files), np.int64, len(files)))
        labels.append(np.full(len(files), label, np.int32))
    return Listing(
        names=np.frombuffer(b"".join(blobs), np.uint8),
        offsets=np.concatenate([[0], *lengths]).cumsum(dtype=np.int64),
        labels=np.concatenate([np.empty(0, np.int32), *labels]),
        classes=[os.fsdecode(name) for name in class_names],
        num_stray=num_stray,
        left_out=[dict(counts) for counts in (*left_out, stray)],
    ), folders


def _files_below(
    top: bytes,
    relative: bytes,
    folders: list[bytes],
    left_out: collections.Counter[str],
    *,
    above: list[tuple[int, int]],
) -> list[bytes]:
    files, inner = [], []
    folders.append(top + b"/" + relative)
    here = _identity(folders[-1])
    if here in above:
        raise ValueError(f"{os.fsdecode(folders[-1])} is a link back to a folder that holds it; remove the link")
    with _entries_of(folders[-1]) as entries:
        for entry in entries:
            if _is_passed_over(entry.name):
                continue
            if _is_folder(entry):
                inner.append(entry.name)
            elif is_image(entry.path):
                files.append(relative + b"/" + entry.name)
            else:
                left_out[LINKS_TO_NOTHING if _is_dangling(entry) else ending_of(entry.name)] += 1
    for name in inner:
        files += _files_below(top, relative + b"/" + name, folders, left_out, above=[*above, here])
    return sorted(files)


def _entries_of(folder: bytes) -> AbstractContextManager[Iterator[os.DirEntry[bytes]]]:
    try:
        return os.scandir(folder)
    except PermissionError as error:
        raise ValueError(no_permission(os.fsdecode(folder), error)) from None


def no_permission(folder: str, error: OSError) -> str:
    """Return what to say of a folder that this user may not read."""
    return f"{folder} cannot be read: {error.strerror}; let this user read it (chmod -R u+rX), or move it away"


def _is_passed_over(name: bytes) -> bool:
    # Archives made on a Mac hold ._n01440764_1.JPEG beside each image, or a folder of such files; they are no images.
    return name.startswith(b".") or name == b"__MACOSX"


def _is_dangling(entry: os.DirEntry[bytes]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself, for one
        raise ValueError(f"{os.fsdecode(entry.path)} cannot be followed: {error.strerror}; remove it") from None


def _identity(folder: bytes) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _stamps(folders: list[bytes]) -> np.ndarray:
    return np.fromiter((os.stat(path).st_mtime_ns for path in folders), np.int64, len(folders))


def _load(cached: Path) -> Listing | None:
    try:
        with np.load(cached, allow_pickle=False) as kept:
            folders = kept["folders"].tobytes().split(b"\0")
            if not np.array_equal(_stamps(folders), kept["stamps"]):
                return None
            classes = kept["classes"].tobytes()
            return Listing(
                names=kept["names"],
                offsets=kept["offsets"],
                labels=kept["labels"],
                classes=[os.fsdecode(name) for name in classes.split(b"\0")] if classes else [],
                num_stray=int(kept["num_stray"]),
                left_out=json.loads(kept["left_out"].tobytes()),
            )
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile):  # absent, torn, or outdated
        return None


def _save(cached: Path, listing: Listing, folders: list[bytes], stamps: np.ndarray) -> None:
    parts = {
        "names": listing.names,
        "offsets": listing.offsets,
        "labels": listing.labels,
        "classes": _bytes(b"\0".join(os.fsencode(name) for name in listing.classes)),
        "num_stray": np.int64(listing.num_stray),
        "left_out": _bytes(json.dumps(listing.left_out).encode()),
        "folders": _bytes(b"\0".join(folders)),
        "stamps": stamps,
    }
    keep(cached, lambda file: np.savez(file, **parts), what=WHAT)


def _bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def pack_names(names: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the names one after another (uint8), and the offsets of each and of the end (int64)."""
    return _bytes(b"".join(names)), np.cumsum([0, *map(len, names)], dtype=np.int64)


def prefix_names(
    names: np.ndarray, offsets: np.ndarray, prefixes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return packed names (`pack_names`) that all begin with the prefix of their label; those that do stay as they are.

    Args:
        names, offsets: uint8 and int64 (N + 1), as `pack_names` gives them.
        prefixes: (K, W) uint8.
        labels: (N,), below K.
    """
    width, count = prefixes.shape[1], len(labels)
    parts, lengths = [np.empty(0, np.uint8)], [np.zeros(1, np.int64)]
    for first in range(0, count, NAMES_AT_ONCE):
        bounds = offsets[first : min(first + NAMES_AT_ONCE, count) + 1]
        chunk, begins, before = names[bounds[0] : bounds[-1]], bounds[:-1] - bounds[0], np.diff(bounds)
        heads = prefixes[labels[first : first + NAMES_AT_ONCE]]
        missing = np.ones(len(begins), bool)
        long = np.flatnonzero(before >= width)
        missing[long] = (chunk[begins[long, None] + np.arange(width)] != heads[long]).any(axis=1)
        after = before + width * missing
        moved = after.cumsum() - after
        out = np.empty(after.sum(), np.uint8)
        out[np.arange(len(chunk)) + np.repeat(moved + width * missing - begins, before)] = chunk
        out[moved[missing, None] + np.arange(width)] = heads[missing]
        parts.append(out)
        lengths.append(after)
    return np.concatenate(parts), np.concatenate(lengths).cumsum()
