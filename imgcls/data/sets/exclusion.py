"""Images that a file leaves out of a set: `data.exclude=FILE`."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from imgcls.data.sets.files import FileSplit, FolderSplit
from imgcls.data.sets.splits import ImageSet, SelectedSplit, Split
from imgcls.data.sets.streaming import StreamedSplit

# ImageNet's own names are the same in every form of it, and each is there once.
OF_IMAGENET = re.compile(r"(n\d{8}_\d+|ILSVRC2012_val_\d{8})\.JPEG")
NEEDS_QUOTES = re.compile(r"^[\s\"#]|[\s]$|[\n\r\ud800-\udfff]|^$")


def exclude(images: ImageSet, file: Path) -> ImageSet:
    """Return a set without the images that a file names: a path a line, as an error names it, or the end of one.

    `train/cat/1.jpg` is every image whose path ends so, which must be a single one; a line that begins with # is none,
    and a name that a line cannot hold is quoted as JSON has it. The other images keep their order and their sides.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is the end of several paths, no line is that of any, or a split would be empty.
    """
    wanted = read_names(file)
    splits = {id(split): split for split in (images.train, images.val)}
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in wanted}
    by_last = _by_last_part(wanted)
    for key, split in splits.items():
        for index in _candidates(split, set(by_last)):
            path = split.path(index)
            for name in by_last[_last_part(path)]:
                if is_end_of(name, path):
                    places[name].append((key, index))
    _check_single(places, splits, file)
    if wanted and not any(places.values()):
        raise ValueError(f"data.exclude={file}: none of its {len(wanted)} lines names an image here; is it this set's?")
    left_out = {key: {index for found in places.values() for of, index in found if of == key} for key in splits}
    parts = {key: _without(split, left_out[key], file) for key, split in splits.items()}
    train, val = parts[id(images.train)], parts[id(images.val)]
    counts = [len(left_out[id(split)]) for split in (images.train, images.val)]
    note = f"data.exclude={file}: left out {counts[0]:,} training and {counts[1]:,} validation images"
    if unknown := sum(not found for found in places.values()):
        note += f"; {unknown:,} of its {len(wanted):,} lines name no image here"
    emptied = _emptied(images, train)
    warnings = (f"data.exclude={file} leaves no training images of {', '.join(emptied)}",) if emptied else ()
    return dataclasses.replace(
        images, train=train, val=val, notes=(*images.notes, note), warnings=(*images.warnings, *warnings)
    )


def read_names(file: Path) -> list[str]:
    """Return the names in a file of images to leave out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line begins with a quote and is no JSON.
    """
    if not file.is_file():
        raise FileNotFoundError(f"data.exclude={file}: there is no such file; name one that lists paths, one a line")
    names = []
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name.startswith('"'):
            try:
                name = json.loads(name)
            except ValueError as error:
                raise ValueError(f"data.exclude={file}, line {number}: a name in quotes is JSON ({error})") from None
        names.append(name)
    return list(dict.fromkeys(names))


def as_line(name: str) -> str:
    """Return a name as a line of such a file."""
    return json.dumps(name) if NEEDS_QUOTES.search(name) else name


def name_in_list(path: str, root: str | None) -> str:
    """Return what names an image in such a file: its path below `root`; of ImageNet the file's name, in every form."""
    last = _last_part(path)
    if OF_IMAGENET.fullmatch(last):
        return last
    base = "" if root is None else os.path.join(os.path.expanduser(root), "")
    return path.removeprefix(base) if base else path


def is_end_of(name: str, path: str) -> bool:
    """Return True if `name` is a path, or the end of it from a folder or a file of images on."""
    if name.startswith("/"):
        return os.path.normpath(name) == os.path.abspath(path)
    name = name.removeprefix("./")
    return path == name or (path.endswith(name) and path[-len(name) - 1] in "/:")


def _last_part(path: str) -> str:
    return re.split("[/:]", path)[-1]


def _by_last_part(names: Iterable[str]) -> dict[str, list[str]]:
    by_last: dict[str, list[str]] = {}
    for name in names:
        by_last.setdefault(_last_part(name), []).append(name)
    return by_last


def _candidates(split: Split, last_parts: set[str]) -> Iterable[int]:
    """Return the images whose path ends in one of `last_parts`."""
    if isinstance(split, FileSplit):  # a million names in a second, without a path of each
        known = {os.fsencode(part) for part in last_parts}
        return [index for index in range(len(split)) if re.split(b"[/:]", split.name(index))[-1] in known]
    return [index for index in range(len(split)) if _last_part(split.path(index)) in last_parts]


def _check_single(places: dict[str, list[tuple[int, int]]], splits: dict[int, Split], file: Path) -> None:
    for name, found in places.items():
        if len(found) > 1:
            shown = [splits[key].path(index) for key, index in found[:2]]
            raise ValueError(
                f"data.exclude={file}: {name!r} is the end of {len(found)} paths ({', '.join(shown)}, ...); write more "
                "of the path"
            )


def _without(split: Split, left_out: set[int], file: Path) -> Split:
    if not left_out:
        return split
    kept = np.setdiff1d(np.arange(len(split)), sorted(left_out))
    if not len(kept):
        raise ValueError(f"data.exclude={file} leaves out all {len(split)} images of {os.path.dirname(split.path(0))}")
    return split.subset(kept) if isinstance(split, FolderSplit | StreamedSplit) else SelectedSplit(split, kept)


def _emptied(images: ImageSet, train: Split) -> list[str]:
    before, after = (np.bincount(split.labels, minlength=len(images.classes)) for split in (images.train, train))
    return [images.classes[label] for label in np.flatnonzero((before > 0) & (after == 0)).tolist()]
