"""ImageNet's classes: the number each is known by, in three orders, and what people call it.

imgcls/data/imagenet_classes.csv has a row for each: the WordNet id; ILSVRC2012_ID as the 2012 devkit's ground-truth
file counts (from 1, in another order); the name, from Keras' imagenet_class_index.json (MIT licence). Its rows
are sorted by WordNet id, so that a row's number is the class index that a folder per class gives, and Keras' index too.
"""

import collections
import csv
import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from imgcls.data.decoding import describe_left_out
from imgcls.data.sets.archives import index_archive, split_of
from imgcls.data.sets.files import FlatSplit, FolderSplit
from imgcls.data.sets.folder import SetReport, _check_listing, _existing_part, _existing_root, open_folder
from imgcls.data.sets.imagenet_containers import open_containers
from imgcls.data.sets.imagenet_labels import NEEDED, VAL_NAME, WNID, find_labels
from imgcls.data.sets.listing import Listing, list_folder, pack_names
from imgcls.data.sets.parquet import find_parquet, holds_parquet
from imgcls.data.sets.parts import OFFICIAL
from imgcls.data.sets.shards import Found, find_tars, holds_tars
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import printable
from imgcls.errors import ConfigError

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


def is_wnid(name: str) -> bool:
    """Return True if a class folder's name has the form of a WordNet id, as n01440764."""
    return WNID.fullmatch(name) is not None


TRAIN_TAR, VAL_TAR = OFFICIAL["train"], OFFICIAL["val"]
KAGGLES = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")


def open_imagenet(
    root: str | None, *, train: str = "train", val: str = "val", channels: int = 3, stream_gb: float | None = None
) -> ImageSet:
    """ILSVRC 2012, or a part of it, in whichever form the root has it; the same images and labels in each.

    train/<wnid>/*.JPEG and val/<wnid>/*.JPEG; or val/*.JPEG flat, with a file of its labels; Kaggle's
    ILSVRC/Data/CLS-LOC, which is so too; or the official tar archives, WebDataset's shards, or parquet files, which
    are read in place.

    Args:
        root: a folder; of shards or parquet files also a pattern of their names, or a URL.
        train, val: folders below the root; of shards or parquet files also patterns.
        stream_gb: of the disk that training shards at a URL pass through; None: they are fetched whole.

    Raises:
        ConfigError: `stream_gb` of another form, or of shards on this machine.
        FileNotFoundError: as `folder`; or the labels of the validation images are not there.
        ValueError: as `folder`, a class folder whose name is not a WordNet id, or an archive that is not whole.
    """
    found = None if root is None else find_containers(root, train, val, stream_gb=stream_gb)
    if root is not None and found is not None:
        return open_containers(root, found, wnids(), channels=channels, without_training=train == val)
    if stream_gb is not None:
        _refuse_stream(root, stream_gb)
    base = _existing_root(root)
    if (base / TRAIN_TAR).is_file() or (base / VAL_TAR).is_file():
        return _open_archives(base, channels, without_training=train == val)
    folder = next((base / name for name in KAGGLES if (base / name).is_dir()), base)
    layout = "class folders alone" if val == "." else "train/ and val/"
    form = f"found Kaggle's layout in {folder}" if folder != base else f"found {layout}"
    if (folder / val).is_dir() and _is_flat(listing := list_folder(folder / val)):
        images = _open_flat(base, folder, train, val, channels, listing)
    else:
        images = open_folder(str(folder), train=train, val=val, channels=channels)
    _check_wnids(images, root)
    return dataclasses.replace(images, notes=(form, *images.notes))


def find_containers(root: str, train: str, val: str, *, stream_gb: float | None = None) -> Found | None:
    """Find the shards or the parquet files of a set; None if the root holds neither, or the official archives."""
    if any(os.path.isfile(os.path.join(os.path.expanduser(root), name)) for name in (TRAIN_TAR, VAL_TAR)):
        return None
    if holds_tars(root):
        return find_tars(root, train, val, stream_gb=stream_gb)
    if not holds_parquet(root):
        return None
    if stream_gb is not None:
        _refuse_stream(root, stream_gb)
    return find_parquet(root, train, val)


def _refuse_stream(root: str | None, stream_gb: float) -> NoReturn:
    raise ConfigError(f"data.stream_gb={stream_gb:g} is for shards (.tar) at a URL, which data.root={root} is not")


def _is_flat(listing: Listing) -> bool:
    return listing.num_stray > 0 and not listing.classes


def _check_wnids(images: ImageSet, root: str | None) -> None:
    for name in images.classes:
        if not is_wnid(name):
            raise ValueError(
                f"data.root={root}: the class folder {name!r} is not a WordNet id as n01440764; "
                "use data=folder for other sets in this layout"
            )
    missing = np.flatnonzero(np.bincount(images.train.labels, minlength=len(images.classes)) == 0)
    if len(missing):
        raise ValueError(
            f"data.root={root}: the class folder {images.classes[missing[0]]} holds no training images; unpack it again"
        )


def _open_flat(base: Path, folder: Path, train: str, val: str, channels: int, listing: Listing) -> ImageSet:
    val_folder = folder / val
    labels, source = _labels_near(base, folder, val_folder)
    names = [os.fsencode(entry.name) for entry in os.scandir(val_folder) if VAL_NAME.fullmatch(entry.name)]
    if len(names) != listing.num_stray:
        raise ValueError(
            f"{val_folder} holds {listing.num_stray - len(names)} images that are not called ILSVRC2012_val_<8 digits>"
            ".JPEG, and so have no label; move them away"
        )
    if train == val:  # a test, which needs no training images
        classes = sorted(set(labels.values()))
        training = None
    else:
        train_folder = _existing_part(folder, train, "data.source.train")
        trained = list_folder(train_folder)
        _check_listing(trained, train_folder)
        classes = trained.classes
        training = FolderSplit.of_listing(train_folder, trained)
    report = SetReport(classes)
    named, numbers = _named(names, labels, classes, source, val_folder)
    validation = FlatSplit.of_names(val_folder, named, numbers)
    report.notes.append(f"labels of {len(named):,} flat validation images from {source}")
    report.left_out(val_folder, listing)
    training = training or validation
    report.all_classes(training.labels, validation.labels, "text")
    return report.image_set(training, validation, channels)


def _labels_near(base: Path, *folders: Path) -> tuple[dict[int, str], Path]:
    devkit_wnids = [row.wnid for row in sorted(imagenet_classes(), key=lambda row: row.devkit_id)]
    for place in dict.fromkeys((base, *folders, base.parent, base.parent.parent, base.parent.parent.parent)):
        if found := find_labels(place, devkit_wnids):
            return found
    raise FileNotFoundError(
        f"{base} has validation images without class folders, and no file of their labels; put {NEEDED} into {base}"
    )


def _named(
    names: list[bytes], labels: dict[int, str], classes: list[str], source: Path, place: Path
) -> tuple[list[bytes], np.ndarray]:
    """Return validation images as <wnid>/<file> with their labels, in the order of class and name."""
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    rows = []
    for name in names:
        match = VAL_NAME.fullmatch(os.fsdecode(name))
        wnid = labels.get(int(match[1])) if match else None
        if wnid is None:
            raise ValueError(f"{source} has no label for {os.fsdecode(name)} of {place}; is it the right file?")
        if wnid not in label_of:
            raise ValueError(
                f"{source}: {os.fsdecode(name)} is of class {wnid}, which the training images lack; give the whole "
                "set, or sort the validation images of your classes into folders"
            )
        rows.append((label_of[wnid], os.fsencode(wnid) + b"/" + name))
    rows.sort()
    return [name for _, name in rows], np.array([label for label, _ in rows], np.int64)


def _open_archives(base: Path, channels: int, *, without_training: bool) -> ImageSet:
    for name in (VAL_TAR,) if without_training else (TRAIN_TAR, VAL_TAR):
        if not (base / name).is_file():
            raise FileNotFoundError(f"data.root={base} has no {name} beside the other archive; download it too")
    validated = index_archive(base / VAL_TAR)
    labels, source = _labels_near(base)
    archives = [(VAL_TAR, validated)]
    if without_training:  # a test
        training, classes = None, sorted(set(labels.values()))
    else:
        trained = index_archive(base / TRAIN_TAR)
        archives.append((TRAIN_TAR, trained))
        try:
            classes, training_labels = trained.wnids()
        except ValueError as error:
            raise ValueError(f"{base / TRAIN_TAR}: {error}") from None
        training = split_of(base / TRAIN_TAR, trained, training_labels)
    names = [validated.name(place) for place in range(len(validated.starts))]
    named, numbers = _named(names, labels, classes, source, base / VAL_TAR)
    place_of = {name: place for place, name in enumerate(names)}
    order = np.array([place_of[name.partition(b"/")[2]] for name in named], np.int64)
    blob, offsets = pack_names(named)
    validation = split_of(base / VAL_TAR, validated._replace(names=blob, offsets=offsets), numbers, order=order)
    training = training or validation
    report = SetReport(classes)
    found = " and ".join(name for name, _ in reversed(archives))
    report.notes.append(f"found the archives {found}, read in place; labels from {source}")
    for archive, index in archives:
        if index.left_out:
            report.notes.append(f"{archive}: left out, as no images: {describe_left_out(index.left_out)}")
    report.all_classes(training.labels, validation.labels, "text")
    return report.image_set(training, validation, channels)


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
