"""Images in tar archives: WebDataset's shards, or one tar of a whole set in folders; read in place by an index.

A shard is a plain tar of samples: members that follow each other and have the same name up to the first dot of the
file's name, as 000123.jpg and 000123.cls. An image is a range of bytes, so shards are read as folders are: in any
order, each image once an epoch, by whichever rank and thread needs it.
"""

import collections
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from imgcls.data.decoding import EXTENSIONS, ending_of
from imgcls.data.sets.archives import tar_members
from imgcls.data.sets.containers import (
    ContainerSplit,
    Contents,
    Part,
    check_has_images,
    image_set_of_parts,
    index_files,
)
from imgcls.data.sets.files import HAS_PREAD
from imgcls.data.sets.holdout import Holdout
from imgcls.data.sets.parts import Parts, find_parts, is_pattern, is_url, local_root
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import printable
from imgcls.errors import ConfigError

if TYPE_CHECKING:
    from imgcls.data.decoding import Sizes, Workspace

TAR = (".tar",)
LABEL_KEYS = ("label", "cls", "class", "class_id", "label_id")  # of a sample's .json
CLASS_NAMES = ("classes.txt", "classnames.txt", "labels.txt", "synset.txt", "synsets.txt")
MOST_LABEL_BYTES = 1 << 20


class ShardSplit(ContainerSplit):
    """Images in tars: image i is sizes[i] bytes from byte starts[i] on."""

    def find(self, index: int) -> bytes:
        """Return the bytes of image `index`.

        Raises:
            OSError, ValueError: they cannot be read.
        """
        places = self.index
        return self.pread(int(places.files[index]), int(places.sizes[index, 0]), int(places.starts[index]))

    def open_in(self, space: "Workspace", indices: np.ndarray) -> "Sizes":
        """Load images `indices` into the native decoder's workspace."""
        if not HAS_PREAD:
            return super().open_in(space, indices)
        places = self.index
        try:
            handles = [self.descriptor(number) for number in places.files[indices].tolist()]
        except OSError:  # one by one, to leave out those that cannot be read
            return super().open_in(space, indices)
        return space.open_ranges(handles, places.starts[indices], places.sizes[indices, 0])


class Found(NamedTuple):
    """A set's tars: what to log of it, and the training and the validation part; either may not be there."""

    note: str
    train: Part | None
    val: Part | None
    folder: Path
    names: Sequence[str] | None = None  # of numbered classes
    are_folders: bool = False  # labels are names of folders, though they may be numbers


def open_webdataset(
    root: str | None,
    *,
    train: str = "train",
    val: str = "val",
    channels: int = 3,
    holdout: Holdout | None = None,
    class_order: str = "text",
    stream_gb: float | None = None,
) -> ImageSet:
    """A set in WebDataset's shards, or in one tar with train/<class>/* and val/<class>/*, read in place.

    A sample is an image with a .cls, or with a .json that has a label: a number from 0, or the name of a class. The
    names of numbered classes are the lines of classes.txt, where that is beside the shards.

    Args:
        root: a folder of shards, a pattern (`/data/train-{0000..1023}.tar`), one tar, or a URL of these.
        train, val: folders below the root, or patterns.
        class_order: of classes by name: text sorts them as text, natural by the numbers in them.
        stream_gb: of the disk that training shards at a URL pass through; None: they are fetched whole.

    Raises:
        FileNotFoundError: there are no shards, or not all that are named.
        ValueError: a shard that is not whole, an image without a label, or labels that are no classes.
    """
    if root is None:
        raise ValueError(
            "data.root is not set; name a folder of shards, or a pattern: data.root=/data/train-{0000..1023}.tar"
        )
    found = find_tars(root, train, val, stream_gb=stream_gb)
    if found is None and os.path.isfile(root):
        raise ValueError(
            f"data.root={root} does not end with .tar; give a tar that is not compressed: images in one that is cannot "
            "be read in any order"
        )
    if found is None:
        raise FileNotFoundError(f"data.root={root}: there are no shards (.tar); name their folder, or a pattern")
    return own_set(f"data.root={root}", found, channels=channels, holdout=holdout, class_order=class_order)


def own_set(place: str, found: Found, *, channels: int, holdout: Holdout | None, class_order: str) -> ImageSet:
    """Return a set of files that are not ImageNet's.

    Args:
        place: the setting that names them, for messages.

    Raises:
        FileNotFoundError: one of the two parts is missing.
        ValueError: a `holdout` of a set with validation images, or labels that are no classes.
    """
    if found.train is None:
        raise FileNotFoundError(
            f"{place} has no training images; their files have the word train in their names, or are named by "
            "data.source.train"
        )
    if found.val is None and holdout is None:
        raise FileNotFoundError(
            f"{place} has no validation images; their files have the word val in their names, or are named by "
            "data.source.val; or hold some of the training images out: data.val_share=0.1"
        )
    if found.val is not None and holdout is not None:
        raise ValueError(
            f"{holdout} would hold out training images, but {place} has validation images; leave it out, or "
            "leave those out: data.source.val=none"
        )
    return image_set_of_parts(
        found.train,
        found.val,
        names=found.names or _class_names(found.folder),
        numbered=not found.are_folders,
        channels=channels,
        holdout=holdout,
        class_order=class_order,
        notes=[found.note],
    )


def find_tars(root: str, train: str, val: str, *, stream_gb: float | None = None) -> Found | None:
    """Find the tars of a set and index them; None if there are none.

    Args:
        stream_gb: of the disk that training shards at a URL pass through.

    Raises:
        ConfigError: `stream_gb` of shards that are on this machine, or too small for them.
        FileNotFoundError: not all that a pattern names are there.
        ValueError: a shard is not whole, or an image has no label.
    """
    parts = find_parts(local_root(root), train, val, TAR)
    if not parts.train and not parts.val:
        return None
    if stream_gb is not None and parts.train:
        return _streamed(root, parts, stream_gb)
    training, validation = (on_disk(files) for files in (parts.train, parts.val))
    if len(training) == 1 and not validation and _is_of_folders(training[0], (train, val)):
        return _folders_in_tar(training[0], train, val)
    found = [
        _part_on_disk(files, word) if files else None
        for files, word in ((training, "training"), (validation, "validation"))
    ]
    note = f"found {len(training)} shards for training and {len(validation)} for validation{_left_out(parts)}"
    return Found(note, found[0], found[1], (training or validation)[0].parent)


def _streamed(root: str, parts: Parts, stream_gb: float) -> Found:
    from imgcls.data.sets.streaming import open_stream  # here: it imports this file

    if not all(map(is_url, parts.train)):
        raise ConfigError(
            f"data.stream_gb={stream_gb:g} is for shards at a URL; the training shards of data.root={root} are on this "
            "machine, and are read where they are: leave it out"
        )
    train = check_has_images(open_stream(parts.train, stream_gb), "training shards")
    val = _part_on_disk(on_disk(parts.val), "validation") if parts.val else None
    note = (
        f"found {len(parts.train)} shards for training, which are streamed through {stream_gb:g} GB of the disk, and "
        f"{len(parts.val)} for validation{_left_out(parts)}"
    )
    return Found(note, train, val, train.files[0].parent)


def _part_on_disk(files: list[Path], word: str) -> Part:
    return check_has_images(Part(files, index_files(files, read_shard, kind="shards"), ShardSplit), f"{word} shards")


def _left_out(parts: Parts) -> str:
    return f"; left out: {len(parts.test)} of a test part" if parts.test else ""


def holds_tars(root: str) -> bool:
    """Return True if `root` is a tar, a pattern or a URL of tars, or a folder with tars in it."""
    place = local_root(root)
    if is_pattern(place) or is_url(place) or os.path.isfile(place):
        return place.endswith(TAR) or (is_url(place) and not place.endswith(".parquet"))
    folders = [place, *(os.path.join(place, part) for part in ("train", "val", "data"))]
    return any(name.endswith(TAR) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder))


def on_disk(files: Sequence[str]) -> list[Path]:
    """Return the files of a part on this machine; those at URLs are fetched."""
    if any(map(is_url, files)):
        from imgcls.data.sets.remote import fetch_all

        return fetch_all(files)
    return [Path(file) for file in files]


def read_shard(path: Path) -> Contents:
    """Return the images of a shard with their labels.

    Raises:
        ValueError: it is not whole, an image has no label, or a sample has several images.
    """
    contents = Contents([], [], [], [], collections.Counter())
    sample = _Sample(path, contents)
    with path.open("rb") as file, path.open("rb") as beside:
        for member, _ in tar_members(path, file):
            if not member.isfile():
                continue
            name = os.fsencode(member.name).removeprefix(b"./")
            if os.path.basename(name).startswith(b"."):  # a Mac's ._ files
                continue
            key, ending = _split_name(name)
            if key != sample.key:
                sample.finish()
                sample = _Sample(path, contents, key)
            sample.add(name, ending, member.offset_data, member.size, beside)
    sample.finish()
    return contents


def _split_name(name: bytes) -> tuple[bytes, bytes]:
    folder, slash, file = name.rpartition(b"/")
    stem, dot, ending = file.partition(b".")
    return folder + slash + stem, (dot + ending).lower()


class _Sample:
    """Members of a shard that belong together, as they are read."""

    def __init__(self, path: Path, contents: Contents, key: bytes | None = None) -> None:
        self.path, self.contents, self.key = path, contents, key
        self.image: tuple[bytes, int, int] | None = None
        self.label: str | None = None
        self.others: list[bytes] = []

    def add(self, name: bytes, ending: bytes, start: int, size: int, file: BinaryIO) -> None:
        if ending.endswith(EXTENSIONS):
            if self.image is not None:
                raise ValueError(
                    f"{self.path}: {_shown(self.image[0])} and {_shown(name)} are two images of one sample; write "
                    "them under names that differ before the first dot"
                )
            self.image = name, start, size
        elif ending.endswith((b".cls", b".json")) and size <= MOST_LABEL_BYTES:
            file.seek(start)
            self._read_label(name, ending, file.read(size))
        else:
            self.others.append(name)

    def _read_label(self, name: bytes, ending: bytes, data: bytes) -> None:
        try:
            if ending.endswith(b".cls"):
                label = data.decode().strip()
            elif self.label is None:
                label = _label_in(json.loads(data))
            else:
                return
        except (ValueError, RecursionError):
            raise ValueError(f"{self.path}: {_shown(name)} cannot be read as text with a label") from None
        self.label = label or self.label

    def finish(self) -> None:
        if self.image is None:
            self.contents.left_out.update(ending_of(name) for name in self.others)
            return
        name, start, size = self.image
        if self.label is None:
            raise ValueError(
                f"{self.path}: {_shown(name)} has no label: the shard holds neither {_shown(self.key or b'')}.cls nor "
                "a .json of that name with a label, next to it"
            )
        self.contents.names.append(name)
        self.contents.labels.append(self.label)
        self.contents.starts.append(start)
        self.contents.sizes.append((size,))


def _label_in(content: object) -> str | None:
    if isinstance(content, dict):
        for key in LABEL_KEYS:
            if isinstance(content.get(key), int | str) and not isinstance(content[key], bool):
                return str(content[key]).strip()
    return None


def _shown(name: bytes) -> str:
    return printable(os.fsdecode(name), lines=False)


def _is_of_folders(path: Path, parts: Sequence[str]) -> bool:
    """Return True if a tar holds a set in folders, as train/<class>/<image>, and not samples."""
    with path.open("rb") as file:
        for member, _ in tar_members(path, file):
            if member.isfile() and (below := _below(member.name, parts)) is not None:
                return len(below) >= 2 and below[-1].lower().endswith(EXTENSIONS)
            if member.isfile() and not os.path.basename(member.name).startswith("."):
                return False
    return False


def _below(name: str, parts: Sequence[str]) -> list[bytes] | None:
    """Return the path of a member below the folder of a part, or None if it is elsewhere, or hidden."""
    words = os.fsencode(name).split(b"/")
    for place, word in enumerate(words[:-1]):
        if word in map(os.fsencode, parts):
            return None if words[-1].startswith(b".") else words[place + 1 :]
    return None


def _folders_in_tar(path: Path, train: str, val: str) -> Found:
    read: list[Callable[[Path], Contents]] = [functools.partial(_read_folders, part=part) for part in (train, val)]
    found = [
        Part([path], index_files([path], one, kind=f"members in folders of {part}"), ShardSplit)
        for one, part in zip(read, (train, val), strict=True)
    ]
    present = [part if len(part.index.starts) else None for part in found]
    note = f"found {path.name}, a tar of {train}/ and {val}/, read in place"
    return Found(note, present[0], present[1], path.parent, are_folders=True)


def _read_folders(path: Path, *, part: str) -> Contents:
    contents = Contents([], [], [], [], collections.Counter())
    with path.open("rb") as file:
        for member, _ in tar_members(path, file):
            below = _below(member.name, [part]) if member.isfile() else None
            if below is None:
                continue
            if len(below) < 2 or not below[-1].lower().endswith(EXTENSIONS):
                contents.left_out[ending_of(below[-1])] += 1
                continue
            contents.names.append(os.fsencode(member.name).removeprefix(b"./"))  # train and val may have the rest alike
            contents.labels.append(os.fsdecode(below[0]))
            contents.starts.append(member.offset_data)
            contents.sizes.append((member.size,))
    return contents


def _class_names(folder: Path) -> list[str] | None:
    for name in CLASS_NAMES:
        for place in (folder, folder.parent):
            if (file := place / name).is_file():
                names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
                return [name for name in names if name]
    return None
