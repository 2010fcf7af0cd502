"""Image sets on disk in ImageNet's layout, train/<class>/*.JPEG and val/<class>/*.JPEG, and Tiny ImageNet's own.

Listing 1.28 million files takes a minute or more; so the list is kept in the cache folder and used again while no
folder in it has changed.
"""

import os
from pathlib import Path

import numpy as np

from imgcls.data.sets.files import FolderSplit
from imgcls.data.sets.listing import EXTENSIONS, Listing, list_folder
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import command
from imgcls.errors import did_you_mean

LAYOUT = "one folder per class, as train/<class>/*.JPEG and val/<class>/*.JPEG"


def open_folder(root: str | None, *, train: str = "train", val: str = "val", channels: int = 3) -> ImageSet:
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
        train=FolderSplit.of_listing(train_folder, trained),
        val=FolderSplit.of_listing(val_folder, validated),
        classes=trained.classes,
        channels=channels,
    )


def _existing_root(root: str | None) -> Path:
    if root is None:
        raise ValueError(f"data.root is not set; name the folder that holds the images, {LAYOUT}: data.root=/path")
    base = Path(root).expanduser()
    if not base.is_dir():
        raise FileNotFoundError(f"data.root={root} is not a folder; name the one that holds train/ and val/")
    return base


def _existing_part(base: Path, name: str, key: str) -> Path:
    if not (path := base / name).is_dir():
        folders = sorted(entry.name for entry in os.scandir(base) if entry.is_dir())
        shown = ", ".join(folders[:5]) + (", ..." if len(folders) > 5 else "")
        holds = f"it holds {shown}" if folders else "it holds no folder"
        raise FileNotFoundError(
            f"data.root={base} has no {name}/, {holds}; the layout is {LAYOUT}. Give the folder above train/ and val/"
            + (f", or set {key}" if key != "data.root" else "")
        )
    return path


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
            hint = did_you_mean(only[0], sorted(set(there) - set(here)))
            parts.append(f"only {path} has {_names(only)}{hint}")
    return f"train and val differ in classes: {'; '.join(parts)}. Both need the same class folders"
