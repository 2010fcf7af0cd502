"""Images in several files of many images each, tar shards or parquet tables, read in place by an index, built once."""

import collections
import itertools
import json
import logging
import os
import re
import threading
import time
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from imgcls.data.decoding import BadImageError, describe_left_out
from imgcls.data.sets.files import FileSplit
from imgcls.data.sets.folder import SetReport, sort_classes
from imgcls.data.sets.holdout import Holdout
from imgcls.data.sets.listing import pack_names
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import cache_file, default_num_threads, keep, printable

if TYPE_CHECKING:
    from imgcls.data.decoding import Sizes, Workspace

log = logging.getLogger(__name__)
WHAT = "the index"
READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # as far as the system has them
_SEEKING = threading.Lock()
SAVE_EVERY = 30.0  # seconds of indexing that a kill may lose
# ImageNet's own files, whose names the copies on the web change: n01440764_10026_n01440764.jpeg.
_ORIGINAL = re.compile(rb"(?:.*/)?(n\d{8}_\d+|ILSVRC2012_val_\d{8})(?:_n\d{8})?\.jpe?g", re.IGNORECASE)


class Contents(NamedTuple):
    """What one file holds: images in its order, their labels as they are written, and where their bytes are."""

    names: list[bytes]
    labels: list[str]
    starts: list[int]
    sizes: list[tuple[int, ...]]  # as the kind of file needs them
    left_out: collections.Counter[str]  # what is no image, by ending


class Index(NamedTuple):
    """The images of several files, by label, then by name.

    Image i is called names[offsets[i]:offsets[i + 1]], and begins at byte starts[i] of file number files[i].
    """

    names: np.ndarray  # uint8
    offsets: np.ndarray  # int64
    labels: np.ndarray  # int32, positions in `texts`
    files: np.ndarray  # int32
    starts: np.ndarray  # int64
    sizes: np.ndarray  # (N, ...) uint32
    texts: list[str]  # the labels as they are written; numbers in their order, otherwise by their bytes
    left_out: dict[str, int]

    def name_list(self) -> list[bytes]:
        """Return the names of all images."""
        blob, offsets = self.names.tobytes(), self.offsets.tolist()
        return [blob[first:last] for first, last in itertools.pairwise(offsets)]


def index_files(
    files: Sequence[Path], read: Callable[[Path], Contents], *, kind: str, stamps: Sequence[str] | None = None
) -> Index:
    """Return the index of several files, from the cache folder where none has changed; broken off, it goes on.

    Args:
        read: returns what a file holds.
        kind: of what `read` makes of it: a kept index is of one kind.
        stamps: a text for each file that changes when it does; by default its path, its size and its time of change.

    Raises:
        ValueError: `read` refuses a file.
    """
    cached = _cache_file(stamps or [_stamp(file) for file in files], kind)
    index, done = _load(cached)
    if index is not None and done == len(files):
        return index
    parts = [] if index is None else [index]
    started = saved = shown = time.monotonic()
    with ThreadPoolExecutor(default_num_threads(), thread_name_prefix="imgcls-index") as pool:
        try:
            for number, contents in enumerate(pool.map(read, files[done:]), done):
                parts.append(_index_of(contents, number))
                now = time.monotonic()
                if now - shown > 10:
                    count = sum(len(part.starts) for part in parts)
                    log.info(
                        "indexing %s: %s images in %d of %d files", files[0].parent, f"{count:,}", number, len(files)
                    )
                    shown = now
                if now - saved > SAVE_EVERY:
                    parts = [_merge(parts)]
                    _save(cached, parts[0], number + 1)
                    saved = time.monotonic()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    index = _merge(parts)
    _save(cached, index, len(files))
    seconds = time.monotonic() - started
    log.info(
        "indexed %s images in %d files of %s in %.1f s", f"{len(index.starts):,}", len(files), files[0].parent, seconds
    )
    return index


def kept_index(stamps: Sequence[str], *, kind: str) -> Index | None:
    """Return the index of files from the cache folder, if all of it is there."""
    index, done = _load(_cache_file(stamps, kind))
    return index if done == len(stamps) else None


def index_contents(contents: Contents) -> Index:
    """Return the index of the images of one file."""
    return _merge([_index_of(contents, 0)])


def _index_of(contents: Contents, number: int) -> Index:
    texts = sorted(set(contents.labels))
    code_of = {text: code for code, text in enumerate(texts)}
    labels = np.array([code_of[text] for text in contents.labels], np.int32)
    width = len(contents.sizes[0]) if contents.sizes else 1
    sizes = np.array(contents.sizes, np.uint32).reshape(len(labels), width)
    blob, offsets = pack_names([_original_name(name) for name in contents.names])
    starts = np.array(contents.starts, np.int64)
    files = np.full(len(labels), number, np.int32)
    return Index(blob, offsets, labels, files, starts, sizes, texts, dict(contents.left_out))


def _original_name(name: bytes) -> bytes:
    match = _ORIGINAL.fullmatch(name)
    return match[1] + b".JPEG" if match else name


def _merge(parts: list[Index]) -> Index:
    """Return the images of several indices as one, sorted."""
    texts = sorted({text for part in parts for text in part.texts}, key=os.fsencode)
    if all(text.isdecimal() for text in texts):
        texts.sort(key=int)
    code_of = {text: code for code, text in enumerate(texts)}
    labels = np.concatenate([np.array([code_of[t] for t in part.texts], np.int32)[part.labels] for part in parts])
    names = [name for part in parts for name in part.name_list()]
    files, starts = (np.concatenate([getattr(part, key) for part in parts]) for key in ("files", "starts"))
    width = max(part.sizes.shape[1] for part in parts)
    sizes = np.concatenate([part.sizes for part in parts if part.sizes.shape[1] == width])
    keys = list(zip(labels.tolist(), names, files.tolist(), starts.tolist(), strict=True))
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    blob, offsets = pack_names([names[place] for place in order.tolist()])
    left_out = sum((collections.Counter(part.left_out) for part in parts), collections.Counter[str]())
    return Index(blob, offsets, labels[order], files[order], starts[order], sizes[order], texts, dict(left_out))


class ContainerSplit(FileSplit):
    """Images in several files, by an index; a subclass reads them. The files are opened when they are first read."""

    def __init__(self, files: Sequence[Path], index: Index, labels: np.ndarray) -> None:
        self._files = [os.fsencode(file) for file in files]
        self.index = index
        self.names, self.name_offsets = index.names, index.offsets
        self.labels = labels.astype(np.int64, copy=False)
        self._lock = threading.Lock()
        self._open: dict[int, int] = {}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    @abstractmethod
    def find(self, index: int) -> bytes:
        """Return the bytes of image `index`; fewer than there should be where the file ends.

        Raises:
            OSError, ValueError: they cannot be read.
        """

    @property
    def root(self) -> bytes:
        """The folder of the files."""
        return os.path.dirname(self._files[0])

    def files(self) -> Iterable[bytes]:
        """Return the files."""
        return self._files

    def holders(self) -> np.ndarray:
        """Return which file holds each image: (N,) positions."""
        return self.index.files

    def num_bytes(self, indices: np.ndarray) -> np.ndarray:
        """Return how many bytes are read for images `indices` (n,): (n,) int64."""
        return self.index.sizes[indices, 0].astype(np.int64)

    def key(self, index: int) -> bytes:
        """Return the file, the name and the place of image `index`: a name may be there several times."""
        file = os.path.basename(self._files[self.index.files[index]])
        place = b"%d %s" % (int(self.index.starts[index]), self.index.sizes[index].tobytes())
        return b":".join((file, self.name(index), place))

    def name(self, index: int) -> bytes:
        """Return the name of image `index`."""
        return self.names[self.name_offsets[index] : self.name_offsets[index + 1]].tobytes()

    def path(self, index: int) -> str:
        """Return the file that holds image `index`, and the image's name, joined by a colon."""
        return os.fsdecode(self._files[self.index.files[index]] + b":" + self.name(index))

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`.

        Raises:
            BadImageError: they cannot be read.
        """
        try:
            return self.find(index)
        except OSError as error:
            raise BadImageError(self.path(index), f"cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise BadImageError(self.path(index), str(error)) from error

    def open_in(self, space: "Workspace", indices: np.ndarray) -> "Sizes":
        """Load images `indices` into the native decoder's workspace."""
        return space.open_bytes([self._read_or_none(index) for index in indices.tolist()])

    def subset(self, indices: np.ndarray) -> Self:
        """Return some of the images, in the order of `indices` (N,)."""
        names = self.index.name_list()
        blob, offsets = pack_names([names[place] for place in indices.tolist()])
        rows = {key: getattr(self.index, key)[indices] for key in ("labels", "files", "starts", "sizes")}
        index = self.index._replace(names=blob, offsets=offsets, **rows)
        return self._of_same_files(index, self.labels[indices])

    def _of_same_files(self, index: Index, labels: np.ndarray) -> Self:
        return type(self)([Path(os.fsdecode(file)) for file in self._files], index, labels)

    def pread(self, number: int, length: int, start: int) -> bytes:
        """Return `length` bytes of file `number`, from byte `start` on.

        Raises:
            OSError: they cannot be read.
            ValueError: the file ends before.
        """
        data = _pread(self.descriptor(number), length, start)
        if len(data) != length:
            raise ValueError("the file ends before it; download it again")
        return data

    def descriptor(self, number: int) -> int:
        """Return the descriptor of file `number`, opened when it is first asked for.

        Raises:
            OSError: it cannot be opened.
        """
        descriptor = self._open.get(number)
        if descriptor is None:
            with self._lock:
                descriptor = self._open.get(number)
                if descriptor is None:
                    descriptor = self._open[number] = os.open(self._files[number], READ)
        return descriptor

    def _read_or_none(self, index: int) -> bytes | None:
        try:
            return self.read(index)
        except BadImageError:
            return None


def _pread(descriptor: int, length: int, start: int) -> bytes:
    """Return bytes of a file, whatever other threads read of it; Windows has no os.pread."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, start)
    with _SEEKING:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, length)


class Part(NamedTuple):
    """The files of the training or of the validation part, their index, and what makes a split of them."""

    files: list[Path]
    index: Index
    kind: Callable[[Sequence[Path], Index, np.ndarray], ContainerSplit]


def check_has_images(part: Part, what: str) -> Part:
    """Return a part that has images.

    Args:
        what: of what its files are, as `validation shards`.

    Raises:
        ValueError: there are none.
    """
    if not len(part.index.starts):
        instead = f", only {describe_left_out(part.index.left_out)}" if part.index.left_out else ""
        place = part.files[0] if len(part.files) == 1 else part.files[0].parent
        raise ValueError(f"{place}: the {what} hold no images{instead}; name others, or leave them out")
    return part


def image_set_of_parts(
    train: Part,
    val: Part | None,
    *,
    names: Sequence[str] | None,
    numbered: bool,
    channels: int,
    holdout: Holdout | None,
    class_order: str,
    notes: Sequence[str],
) -> ImageSet:
    """Return an own set whose labels are numbers from 0, or the names of the classes.

    Args:
        names: of the classes, where labels are numbers and the names are known.
        numbered: labels that are numbers count the classes; otherwise they are names too.

    Raises:
        ValueError: labels that are neither; validation images of a class that has no training images.
    """
    numbered = numbered and all(are_numbers(part.index) for part in (train, val or train))
    classes = _numbered_classes(train, val, names) if numbered else _named_classes(train, val, class_order)
    report = SetReport(classes)
    report.notes += notes
    label_of = {name: label for label, name in enumerate(classes)}
    if numbered:
        label_of = {text: int(text) for part in (train, val or train) for text in part.index.texts}
    training = make_split(train, label_of)
    note_left_out(report, train.index)
    if val is not None:
        validation = make_split(val, label_of)
        note_left_out(report, val.index)
    else:
        assert holdout is not None
        training, validation = report.hold_out(training, holdout)
    report.all_classes(training.labels, validation.labels, "natural" if numbered else class_order)
    return report.image_set(training, validation, channels)


def note_left_out(report: SetReport, index: Index) -> None:
    """Name what is no image in the files, by ending."""
    if index.left_out:
        report.notes.append(f"left out, as no images: {describe_left_out(index.left_out)}")


def are_numbers(index: Index) -> bool:
    """Return True if the labels are whole numbers from 0."""
    return all(text.isdecimal() for text in index.texts)


def make_split(part: Part, label_of: Mapping[str, int]) -> ContainerSplit:
    """Return the images of a part by label, given the labels that its texts stand for; in a class by name."""
    labels = np.array([label_of[text] for text in part.index.texts], np.int64)[part.index.labels]
    split = part.kind(part.files, part.index, labels)
    in_order = bool((labels[1:] >= labels[:-1]).all())
    return split if in_order else split.subset(np.argsort(labels, kind="stable"))


def _named_classes(train: Part, val: Part | None, class_order: str) -> list[str]:
    place = train.files[0].parent
    classes = sort_classes(train.index.texts, class_order)
    if val is not None and (unknown := sorted(set(val.index.texts) - set(classes))):
        raise ValueError(
            f"{val.files[0].parent}: only validation images are of class {printable(unknown[0], lines=False)!r}; "
            "what is not trained on cannot be recognised"
        )
    if negative := [name for name in classes if re.fullmatch(r"-\d+", name)]:
        raise ValueError(f"{place}: label {negative[0]} is no class; labels count from 0")
    if len(classes) < 2:
        raise ValueError(f"{place}: all labels are {classes[0]!r}; a classifier needs two classes or more")
    return classes


def _numbered_classes(train: Part, val: Part | None, names: Sequence[str] | None) -> list[str]:
    place = train.files[0].parent
    largest = max(int(text) for part in (train, val or train) for text in part.index.texts)
    if names is not None and largest >= len(names):
        raise ValueError(
            f"{place}: label {largest} is outside 0..{len(names) - 1}, the {len(names)} classes that are named; labels "
            "count from 0"
        )
    if names is not None:
        return list(names)
    if largest >= max(1000, 10 * len(train.index.texts)):
        raise ValueError(
            f"{place}: {len(train.index.texts)} different labels go up to {largest}; labels must count the classes "
            "from 0"
        )
    if largest < 1:
        raise ValueError(f"{place}: all labels are 0; a classifier needs two classes or more")
    return [str(number) for number in range(largest + 1)]


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{os.path.realpath(file)} {status.st_size} {status.st_mtime_ns}"


def _cache_file(stamps: Sequence[str], kind: str) -> Path | None:
    return cache_file("archives", os.fsencode("\0".join([kind, *stamps])), ".npz", what=WHAT)


def _load(cached: Path | None) -> tuple[Index | None, int]:
    """Return the index, and how many of the files are in it."""
    try:
        assert cached is not None
        with np.load(cached, allow_pickle=False) as arrays:
            texts, left_out = json.loads(arrays["texts"].tobytes())
            offsets = np.concatenate([[0], np.cumsum(arrays["name_lengths"], dtype=np.int64)])
            rows = {key: arrays[key] for key in ("labels", "files", "starts", "sizes")}
            index = Index(arrays["names"], offsets, **rows, texts=texts, left_out=left_out)
            if {len(row) for row in rows.values()} != {len(offsets) - 1} or offsets[-1] != len(index.names):
                raise ValueError("its parts are of different lengths")
            return index, int(arrays["done"])
    except (AssertionError, OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile):  # absent or torn
        return None, 0


def _save(cached: Path | None, index: Index, done: int) -> None:
    parts = {key: getattr(index, key) for key in ("names", "labels", "files", "starts", "sizes")}
    parts["name_lengths"] = np.diff(index.offsets).astype(np.uint32)
    parts["texts"] = np.frombuffer(json.dumps([index.texts, index.left_out]).encode(), np.uint8)
    parts["done"] = np.int64(done)
    keep(cached, lambda file: np.savez(file, **parts), what=WHAT)
