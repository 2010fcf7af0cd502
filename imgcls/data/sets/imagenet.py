"""ImageNet's classes: the number each is known by, in three orders, and what people call it.

imgcls/data/imagenet_classes.csv has a row for each: the WordNet id; ILSVRC2012_ID as the 2012 devkit's ground-truth
file counts (from 1, in another order); the name, from Keras' imagenet_class_index.json (MIT licence). Its rows
are sorted by WordNet id, so that a row's number is the class index that a folder per class gives, and Keras' index too.
"""

import collections
import csv
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls.data.sets.files import FolderSplit
from imgcls.data.sets.folder import _check_listing, _existing_part, _existing_root, open_folder
from imgcls.data.sets.listing import list_folder
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import printable

CLASSES_TABLE = Path(__file__).with_name("imagenet_classes.csv")


class ImageNetClass(NamedTuple):
    """One of the 1000 classes: its WordNet id, its number in the development kit, and its name."""

    wnid: str
    devkit_id: int
    name: str


@functools.cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """Return the 1,000 classes of ILSVRC 2012 by class index."""
    with CLASSES_TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(ImageNetClass(row["wnid"], int(row["devkit_id"]), row["name"]) for row in csv.DictReader(file))


@functools.cache
def wnids() -> tuple[str, ...]:
    """Return the WordNet ids by class index: sorted."""
    return tuple(row.wnid for row in imagenet_classes())


@functools.cache
def index_of_devkit_id() -> dict[int, int]:
    """From ILSVRC2012_ID, as in ILSVRC2012_validation_ground_truth.txt, to class index."""
    return {row.devkit_id: index for index, row in enumerate(imagenet_classes())}


def readable_names(classes: Sequence[str]) -> list[str]:
    """Return names to show for classes: for a WordNet id of ImageNet its name; others are returned as they are.

    Control characters are written out. Two classes of one name (crane: bird, machine) keep their WordNet ids.
    """
    known = {row.wnid: row.name for row in imagenet_classes()}
    shown = [known.get(name, printable(name, lines=False)) for name in classes]
    counts = collections.Counter(shown)
    return [
        name if counts[name] == 1 or name == printable(own, lines=False) else f"{name} ({printable(own, lines=False)})"
        for name, own in zip(shown, classes, strict=True)
    ]


def validation_number(path: str) -> int | None:
    """Return the number of an ImageNet validation image, 1 to 50000, from its file's name, or None for another file."""
    match = re.search(r"ILSVRC2012_val_(\d{8})\.", path)
    return int(match.group(1)) if match else None


def open_imagenet(root: str | None, *, train: str = "train", val: str = "val", channels: int = 3) -> ImageSet:
    """ILSVRC 2012 as everyone sorts it: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG.

    Raises:
        FileNotFoundError: as `folder`.
        ValueError: as `folder`, or a class folder whose name is not a WordNet id.
    """
    images = open_folder(root, train=train, val=val, channels=channels)
    for name in images.classes:
        if not re.fullmatch(r"n\d{8}", name):
            raise ValueError(
                f"data.root={root}: the class folder {name!r} is not a WordNet id as n01440764; "
                "use data=folder for other sets in this layout"
            )
    missing = np.flatnonzero(np.bincount(images.train.labels, minlength=len(images.classes)) == 0)
    if len(missing):
        raise ValueError(
            f"data.root={root}: the class folder {images.classes[missing[0]]} holds no training images; unpack it again"
        )
    return images


def open_tiny_imagenet(root: str | None, *, channels: int = 3) -> ImageSet:
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
        train=FolderSplit.of_listing(train_folder, listing),
        val=FolderSplit.of_names(val_folder, names, np.asarray(labels)),
        classes=listing.classes,
        channels=channels,
    )
