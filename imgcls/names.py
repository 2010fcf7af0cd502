"""ImageNet's classes: the number each is known by, in three orders, and what people call it.

imgcls/data/imagenet_classes.csv has a row for each: the WordNet id; ILSVRC2012_ID as the 2012 devkit's ground-truth
file counts (from 1, in an order of its own); the name, from Keras' imagenet_class_index.json (MIT licence). Its rows
are sorted by WordNet id, so that a row's number is the class index that a folder per class gives, and Keras' index too.
"""

import collections
import csv
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).parent / "data" / "imagenet_classes.csv"


class ImageNetClass(NamedTuple):
    wnid: str
    devkit_id: int
    name: str


@functools.cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """The 1,000 classes of ILSVRC 2012 by class index."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(ImageNetClass(row["wnid"], int(row["devkit_id"]), row["name"]) for row in csv.DictReader(file))


@functools.cache
def wnids() -> tuple[str, ...]:
    """The WordNet ids by class index: sorted."""
    return tuple(row.wnid for row in imagenet_classes())


@functools.cache
def index_of_devkit_id() -> dict[int, int]:
    """From ILSVRC2012_ID, as in ILSVRC2012_validation_ground_truth.txt, to class index."""
    return {row.devkit_id: index for index, row in enumerate(imagenet_classes())}


def human(classes: Sequence[str]) -> list[str]:
    """Names to show for classes: a WordNet id's own name where it is one of ImageNet's; others as they are.

    Two classes of one name (crane, the bird and the machine) keep their WordNet ids.
    """
    known = {row.wnid: row.name for row in imagenet_classes()}
    shown = [known.get(name, name) for name in classes]
    counts = collections.Counter(shown)
    return [
        name if counts[name] == 1 or name == own else f"{name} ({own})"
        for name, own in zip(shown, classes, strict=True)
    ]


def validation_number(path: str) -> int | None:
    """The number of an ImageNet validation image, 1 to 50000, from its file's name, or None for another file."""
    found = re.search(r"ILSVRC2012_val_(\d{8})\.", path)
    return int(found.group(1)) if found else None
