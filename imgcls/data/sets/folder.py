"""Image sets on disk in ImageNet's layout, train/<class>/*.JPEG and val/<class>/*.JPEG, and Tiny ImageNet's own.

Listing 1.28 million files takes a minute or more; so the list is kept in the cache folder and used again while no
folder in it has changed.
"""

import errno
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np

from imgcls.data.decoding import FORMATS, describe_left_out, needs_anything
from imgcls.data.sets.files import FolderSplit
from imgcls.data.sets.holdout import Holdout
from imgcls.data.sets.listing import Listing, list_folder, no_permission
from imgcls.data.sets.splits import ImageSet, Split
from imgcls.environment import command
from imgcls.errors import did_you_mean

LAYOUT = "one folder per class, as train/<class>/*.JPEG and val/<class>/*.JPEG"


# What others call the two parts of a set.
TRAINING_NAMES = ("train", "training", "train_set", "trainset")
VALIDATION_NAMES = ("val", "valid", "validation", "val_set", "dev", "test", "testing")


class Divisible(Protocol):
    """Images with names, of which some can be taken."""

    labels: np.ndarray

    def __len__(self) -> int: ...

    def name(self, index: int) -> bytes: ...

    def subset(self, indices: np.ndarray) -> Self: ...


Images = TypeVar("Images", bound=Divisible)


def open_folder(
    root: str | None,
    *,
    train: str = "train",
    val: str = "val",
    channels: int = 3,
    holdout: Holdout | None = None,
    class_order: str = "text",
) -> ImageSet:
    """Any set in ImageNet's layout; classes are the names of the folders of train/, sorted.

    With a `holdout` a set without val/ is split, and `root` may hold the class folders itself.

    Args:
        class_order: text sorts the classes as text, natural by the numbers in them: 2 before 10.

    Raises:
        FileNotFoundError: the root, train/ or val/ is missing, or holds no images.
        ValueError: a layout that would train on less, or on other classes, than it seems.
    """
    base = _existing_root(root)
    flat = holdout is not None and not (base / train).is_dir() and not (base / val).is_dir()
    train_folder = base if flat else _existing_part(base, train, "data.source.train")
    if holdout is not None and (base / val).is_dir():
        raise ValueError(
            f"{holdout} would hold out training images, but {base / val} has validation images; leave it out, or name "
            "a folder that is not there: data.source.val=none"
        )
    if holdout is None and not (base / val).is_dir():
        raise FileNotFoundError(_without_val(base, val))
    trained = list_folder(train_folder)
    _check_listing(trained, train_folder)
    classes = sort_classes(trained.classes, class_order)
    training = FolderSplit.of_listing(train_folder, trained)
    training.labels = _labels_in(classes, trained)
    report = SetReport(classes)
    report.left_out(train_folder, trained)
    if holdout is not None:
        training, validation = report.hold_out(training, holdout)
    else:
        val_folder = base / val
        validated = list_folder(val_folder)
        _check_listing(validated, val_folder)
        if unknown := sorted(set(validated.classes) - set(classes)):
            hint = did_you_mean(unknown[0], sorted(set(classes) - set(validated.classes)))
            raise ValueError(
                f"only {val_folder} has {_names(unknown)}{hint}; what is not trained on cannot be recognised: move the "
                f"folder away, or add one of this name to {train_folder}"
            )
        validation = FolderSplit.of_listing(val_folder, validated)
        validation.labels = _labels_in(classes, validated)
        report.left_out(val_folder, validated)
    if len(classes) < 2:
        raise ValueError(f"{train_folder} holds a single class, {classes[0]!r}; a classifier needs two folders or more")
    report.all_classes(training.labels, validation.labels, class_order)
    return report.image_set(training, validation, channels)


class SetReport:
    """What the user should know of how a set was read."""

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def left_out(self, path: Path, listing: Listing) -> None:
        """Name the files that are no images, by ending."""
        if endings := listing.num_left_out():
            text = f"{path}: left out, as no images: {describe_left_out(endings)}"
            (self.warnings if needs_anything(endings) else self.notes).append(text)

    def hold_out(self, images: Images, holdout: Holdout) -> tuple[Images, Images]:
        """Return the training and the validation images that `holdout` makes of a set without the latter."""
        held_out = holdout.choose([images.name(index) for index in range(len(images))], images.labels)
        self.notes.append(f"{holdout}: {held_out.sum():,} of {len(held_out):,} images are held out for validation")
        training, validation = (images.subset(np.flatnonzero(part)) for part in (~held_out, held_out))
        return training, validation

    def all_classes(self, training: np.ndarray, validation: np.ndarray, class_order: str) -> None:
        """Say what is to be said of the classes, given the labels of both splits."""
        self.classes_without(training, "training", "the network does not learn to recognise them")
        self.classes_without(validation, "validation", "they are trained on, and count in no score")
        self.numbered(class_order)

    def image_set(self, training: Split, validation: Split, channels: int) -> ImageSet:
        """Return the set that was read."""
        return ImageSet(training, validation, self.classes, channels, tuple(self.notes), tuple(self.warnings))

    def classes_without(self, labels: np.ndarray, kind: str, consequence: str) -> None:
        """Name the classes that none of the `labels` (N,) is of."""
        counts = np.bincount(labels, minlength=len(self.classes))
        if without := [name for name, count in zip(self.classes, counts, strict=True) if count == 0]:
            self.warnings.append(f"no {kind} images of {_names(without)}: {consequence}")

    def numbered(self, class_order: str) -> None:
        """Say in which order classes with numbers for names are."""
        as_text, natural = (sort_classes(self.classes, order) for order in ("text", "natural"))
        if as_text == natural or not all(name.isdecimal() for name in self.classes):
            return
        if class_order == "natural":
            self.notes.append(f"classes are numbers, sorted as numbers ({', '.join(natural[:4])}, ...)")
        else:
            self.notes.append(
                f"classes are numbers, sorted as text ({', '.join(as_text[:4])}, ...); "
                f"data.class_order=natural sorts them as numbers ({', '.join(natural[:4])}, ...)"
            )


def sort_classes(names: Iterable[str], order: str) -> list[str]:
    """Return class names sorted as text, by their bytes, or `natural`ly, by the numbers in them."""
    if order == "natural":
        return sorted(names, key=_natural)
    return sorted(names, key=os.fsencode)


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"([0-9]+)", name)
    # Numbers sort before text; 01 and 1 are two classes.
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def _labels_in(classes: list[str], listing: Listing) -> np.ndarray:
    position = {name: label for label, name in enumerate(classes)}
    return np.array([position[name] for name in listing.classes], np.int64)[listing.labels]


def _without_val(base: Path, val: str) -> str:
    return (
        f"data.root={base} has no {val}/ for validation images, {_holds(base)}; hold some of the training images out: "
        "data.val_share=0.1 (or data.fold=0 data.num_folds=5); or name the folder that has them: data.source.val="
        f"{_likely(base, VALIDATION_NAMES) or 'NAME'}"
    )


def _existing_root(root: str | None) -> Path:
    if root is None:
        raise ValueError(f"data.root is not set; name the folder that holds the images, {LAYOUT}: data.root=/path")
    base = Path(root).expanduser()
    if not base.is_dir():
        raise FileNotFoundError(f"data.root={root} is not a folder; name the one that holds train/ and val/")
    if not os.access(base, os.R_OK | os.X_OK):
        raise ValueError(f"data.root={no_permission(str(root), PermissionError(errno.EACCES, 'Permission denied'))}")
    return base


def _existing_part(base: Path, name: str, key: str) -> Path:
    if not (path := base / name).is_dir():
        likely = f"={found}" if (found := _likely(base, TRAINING_NAMES)) else ""
        or_set = f", or set {key}{likely}" if key != "data.root" else ""
        if likely and not (base / "val").is_dir() and (val := _likely(base, VALIDATION_NAMES)):
            or_set += f" data.source.val={val}"
        raise FileNotFoundError(
            f"data.root={base} has no {name}/, {_holds(base)}; the layout is {LAYOUT}. Give the folder above train/ "
            f"and val/{or_set}; a folder of class folders alone is split by "
            "data.val_share=0.1"
        )
    return path


def _likely(base: Path, names: Sequence[str]) -> str | None:
    """Return the folder in `base` that is called by one of `names`, whatever its capitals, or None."""
    there = {entry.name.lower(): entry.name for entry in os.scandir(base) if entry.is_dir()}
    return next((there[name] for name in names if name in there), None)


def _holds(base: Path) -> str:
    folders = sorted(entry.name for entry in os.scandir(base) if entry.is_dir())
    shown = ", ".join(folders[:5]) + (", ..." if len(folders) > 5 else "")
    return f"it holds {shown}" if folders else "it holds no folder"


def _check_listing(listing: Listing, path: Path) -> None:
    if listing.num_stray and not listing.classes:
        raise ValueError(
            f"{path} holds {listing.num_stray} images in no class folder; the layout is {LAYOUT}. ImageNet's "
            f"validation images come flat: sort them with `{command('sort_val')}` and the labels that come with it"
        )
    if listing.num_stray:
        raise ValueError(
            f"{path} holds {listing.num_stray} images beside its class folders, which would be left out; "
            "move them into class folders or away"
        )
    if not listing.classes:
        raise FileNotFoundError(f"{path} is empty; the layout is {LAYOUT}")
    if not len(listing.labels):
        raise FileNotFoundError(
            f"{path} holds {len(listing.classes)} folders but no images{_left_out_instead(listing.num_left_out())}"
        )
    counts = np.bincount(listing.labels, minlength=len(listing.classes))
    for name, count, left_out in zip(listing.classes, counts, listing.left_out, strict=False):
        if not count and left_out:
            raise ValueError(
                f"{path / name} holds no image that can be read{_left_out_instead(left_out)}; save its files as JPEG "
                "or PNG, or remove the folder from both train/ and val/"
            )


def _left_out_instead(endings: dict[str, int]) -> str:
    return f", only {describe_left_out(endings)}" if endings else f" ({', '.join(FORMATS)})"


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{len(names)} class{'es' if len(names) > 1 else ''} ({shown}{', ...' if len(names) > 5 else ''})"
