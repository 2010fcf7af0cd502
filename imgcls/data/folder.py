"""Image sets on disk in ImageNet's layout, train/<class>/*.JPEG and val/<class>/*.JPEG, and Tiny ImageNet's own.

Listing 1.28 million files takes a minute or more; so the list is kept in the cache folder and used again while no
folder in it has changed.
"""

import hashlib
import logging
import os
import re
import tempfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls.data.cache import cache_folder
from imgcls.data.sources import FolderSplit, ImageSet, nearest

log = logging.getLogger(__name__)

EXTENSIONS = (b".jpg", b".jpeg", b".png", b".bmp", b".webp", b".gif", b".tif", b".tiff")
LAYOUT = "one folder per class, as train/<class>/*.JPEG and val/<class>/*.JPEG"
SETTLED_SECONDS = 2.0  # a folder changed less than this before it was listed may change again under the same mtime


def folder(root: str | None, *, train: str = "train", val: str = "val", channels: int = 3) -> ImageSet:
    """Any set in ImageNet's layout; classes are the names of the folders, sorted.

    Raises:
        FileNotFoundError: the root, train/ or val/ is missing, or holds no images.
        ValueError: a layout that would train on less, or on other classes, than it seems.
    """
    base = _existing_root(root)
    train_folder = _existing_part(base, train, "data.source.train")
    val_folder = _existing_part(base, val, "data.source.val")
    trained, validated = list_folder(train_folder), list_folder(val_folder)
    for listing, path in ((trained, train_folder), (validated, val_folder)):
        _check_listing(listing, path)
    if trained.classes != validated.classes:
        raise ValueError(_differing_classes(trained.classes, validated.classes, train_folder, val_folder))
    if len(trained.classes) < 2:
        raise ValueError(
            f"{train_folder} holds a single class, {trained.classes[0]!r}; a classifier needs two folders or more"
        )
    return ImageSet(
        train=FolderSplit(train_folder, trained.names, trained.offsets, trained.labels),
        val=FolderSplit(val_folder, validated.names, validated.offsets, validated.labels),
        classes=trained.classes,
        channels=channels,
    )


def imagenet(root: str | None, *, train: str = "train", val: str = "val", channels: int = 3) -> ImageSet:
    """ILSVRC 2012 as everyone sorts it: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG.

    Raises:
        FileNotFoundError: as `folder`.
        ValueError: as `folder`, or a class folder whose name is not a WordNet id.
    """
    images = folder(root, train=train, val=val, channels=channels)
    for name in images.classes:
        if not re.fullmatch(r"n\d{8}", name):
            raise ValueError(
                f"data.root={root}: the class folder {name!r} is not a WordNet id as n01440764; "
                "use data=folder for other sets in this layout"
            )
    return images


def tiny_imagenet(root: str | None, *, channels: int = 3) -> ImageSet:
    """Tiny ImageNet as it is distributed: train/<wnid>/images/*.JPEG, and val/images with val_annotations.txt.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: the annotations name another class than train/, or leave an image out.
    """
    base = _existing_root(root)
    train_folder = _existing_part(base, "train", "data.root")
    val_folder = _existing_part(base, "val", "data.root")
    if not (annotations := val_folder / "val_annotations.txt").is_file():
        raise FileNotFoundError(
            f"data.root={root}: no val/val_annotations.txt; give the folder tiny-imagenet-200 as it was unpacked, "
            "or use data=folder for a copy whose val/ is sorted into class folders"
        )
    listing = list_folder(train_folder)
    _check_listing(listing, train_folder)
    label_of = {name: label for label, name in enumerate(listing.classes)}
    names, labels = [], []
    rows = (row.split("\t") for row in annotations.read_text().splitlines() if row.strip())
    for name, wnid, *_ in sorted(rows):
        if wnid not in label_of:
            raise ValueError(f"{annotations}: {name} is of class {wnid!r}, which train/ lacks")
        names.append(b"images/" + os.fsencode(name))
        labels.append(label_of[wnid])
    present = sum(entry.name.endswith(".JPEG") for entry in os.scandir(val_folder / "images"))
    if present != len(names):
        raise ValueError(f"{annotations} names {len(names)} images but val/images holds {present}; unpack it again")
    return ImageSet(
        train=FolderSplit(train_folder, listing.names, listing.offsets, listing.labels),
        val=FolderSplit(val_folder, *_pack(names), np.asarray(labels, np.int32)),
        classes=listing.classes,
        channels=channels,
    )


class Listing(NamedTuple):
    """The image files below a folder, packed; and its sub-folders, which are the classes."""

    names: np.ndarray  # uint8, paths relative to the folder, one after another
    offsets: np.ndarray  # int64
    labels: np.ndarray  # int32
    classes: list[str]
    num_stray: int  # images that lie in the folder itself, in no class


def list_folder(path: Path) -> Listing:
    """List `path`, from the cache where no folder has changed since.

    Raises:
        ValueError: a link among its folders leads back to one that holds it.
    """
    real = os.fsencode(os.path.realpath(path))  # the same list by whatever name, from wherever it is asked for
    cached = _place_of_list(real)
    if cached is not None and (listing := _load(cached)) is not None:
        return listing
    started = time.time()
    listing, folders = _scan(real)
    stamps = _stamps(folders)
    if cached is not None and stamps.max(initial=0) < (started - SETTLED_SECONDS) * 1e9:
        _save(cached, listing, folders, stamps)
    log.info("listed %d images below %s in %.1f s", len(listing.labels), path, time.time() - started)
    return listing


def _place_of_list(real: bytes) -> Path | None:
    try:
        return cache_folder() / "lists" / f"{hashlib.sha256(real).hexdigest()[:32]}.npz"
    except FileNotFoundError as error:
        log.info("the list of files is not kept for next time: %s", error)
        return None


def _scan(top: bytes) -> tuple[Listing, list[bytes]]:
    class_names: list[bytes] = []
    num_stray = 0
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if _is_folder(entry):
                class_names.append(entry.name)
            elif entry.name.lower().endswith(EXTENSIONS):
                num_stray += 1
    class_names.sort()
    folders = [top]
    blobs, lengths, labels = [], [], []
    for label, name in enumerate(class_names):
        found = _files_below(top, name, folders, above=[_identity(top)])
        blobs.append(b"".join(found))
        lengths.append(np.fromiter(map(len, found), np.int64, len(found)))
        labels.append(np.full(len(found), label, np.int32))
    return Listing(
        names=np.frombuffer(b"".join(blobs), np.uint8),
        offsets=np.concatenate([[0], *lengths]).cumsum(dtype=np.int64),
        labels=np.concatenate([np.empty(0, np.int32), *labels]),
        classes=[os.fsdecode(name) for name in class_names],
        num_stray=num_stray,
    ), folders


def _files_below(top: bytes, relative: bytes, folders: list[bytes], *, above: list[tuple[int, int]]) -> list[bytes]:
    # Hidden files are skipped: archives made on a Mac hold ._n01440764_1.JPEG beside each image, and it is no image.
    found, inner = [], []
    folders.append(top + b"/" + relative)
    here = _identity(folders[-1])
    if here in above:
        raise ValueError(f"{os.fsdecode(folders[-1])} is a link back to a folder that holds it; remove the link")
    with os.scandir(folders[-1]) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if _is_folder(entry):
                inner.append(entry.name)
            elif entry.name.lower().endswith(EXTENSIONS):
                found.append(relative + b"/" + entry.name)
    for name in inner:
        found += _files_below(top, relative + b"/" + name, folders, above=[*above, here])
    return sorted(found)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself, for one
        raise ValueError(f"{os.fsdecode(entry.path)} cannot be followed: {error.strerror}; remove it") from None


def _identity(folder: bytes) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


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
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent, torn, or of a folder that is gone
        return None


def _save(cached: Path, listing: Listing, folders: list[bytes], stamps: np.ndarray) -> None:
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".tmp", delete=False) as file:
            np.savez(
                file,
                names=listing.names,
                offsets=listing.offsets,
                labels=listing.labels,
                classes=_bytes(b"\0".join(os.fsencode(name) for name in listing.classes)),
                num_stray=np.int64(listing.num_stray),
                folders=_bytes(b"\0".join(folders)),
                stamps=stamps,
            )
        os.replace(file.name, cached)
    except OSError as error:
        log.info("the list of files is not kept for next time: %s", error)


def _bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def _pack(names: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return _bytes(b"".join(names)), np.cumsum([0, *map(len, names)], dtype=np.int64)


def _existing_root(root: str | None) -> Path:
    if root is None:
        raise ValueError(f"data.root is not set; name the folder that holds the images, {LAYOUT}: data.root=/path")
    base = Path(root).expanduser()
    if not base.is_dir():
        raise FileNotFoundError(f"data.root={root} is not a folder; name the one that holds train/ and val/")
    return base


def _existing_part(base: Path, name: str, key: str) -> Path:
    if not (path := base / name).is_dir():
        found = sorted(entry.name for entry in os.scandir(base) if entry.is_dir())
        held = f"it holds {', '.join(found[:5])}{', ...' if len(found) > 5 else ''}" if found else "it holds no folder"
        raise FileNotFoundError(
            f"data.root={base} has no {name}/, {held}; the layout is {LAYOUT}. Give the folder above train/ and val/"
            + (f", or set {key}" if key != "data.root" else "")
        )
    return path


def _check_listing(listing: Listing, path: Path) -> None:
    if listing.num_stray and not listing.classes:
        raise ValueError(
            f"{path} holds {listing.num_stray} images in no class folder; the layout is {LAYOUT}. ImageNet's "
            "validation images come flat: sort them with scripts/sort_val.py and the labels that come with ImageNet"
        )
    if listing.num_stray:
        raise ValueError(
            f"{path} holds {listing.num_stray} images beside its class folders, which would be left out; "
            "move them into class folders or away"
        )
    if not listing.classes:
        raise FileNotFoundError(f"{path} is empty; the layout is {LAYOUT}")
    if not len(listing.labels):
        known = ", ".join(os.fsdecode(extension) for extension in EXTENSIONS)
        raise FileNotFoundError(f"{path} holds {len(listing.classes)} folders but no images ({known})")
    counts = np.bincount(listing.labels, minlength=len(listing.classes))
    if empty := [name for name, count in zip(listing.classes, counts, strict=True) if count == 0]:
        raise ValueError(
            f"{path} has {_names(empty)} without any image; unpack the class again, or remove its folder from both "
            "train/ and val/"
        )


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{len(names)} class folder{'s' if len(names) > 1 else ''} ({shown}{', ...' if len(names) > 5 else ''})"


def _differing_classes(trained: list[str], validated: list[str], train_folder: Path, val_folder: Path) -> str:
    parts = []
    for here, there, path in ((trained, validated, train_folder), (validated, trained, val_folder)):
        if only := sorted(set(here) - set(there)):
            hint = nearest(only[0], sorted(set(there) - set(here)))
            parts.append(f"only {path} has {_names(only)}{hint}")
    return f"train and val differ in classes: {'; '.join(parts)}. Both need the same class folders"
