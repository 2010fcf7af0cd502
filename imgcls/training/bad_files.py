"""Files that ended a run because they cannot be decoded: whoever removes one may take the run up again."""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls.data.decoding import BadImageError
from imgcls.data.loading import RefusedImageError
from imgcls.data.sets import FolderSplit, ImageSet, Split
from imgcls.runs import BAD_FILES, durable_file, read_json

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer


def remember_bad_file(trainer: "Trainer", error: BadImageError) -> None:
    """Note in the run's directory the file that ends the run: its split, position, name and label."""
    if not isinstance(error, RefusedImageError):
        return
    for part, split in (("train", trainer.train_loader.split), ("val", trainer.val_loader.split)):
        if isinstance(split, FolderSplit) and split is error.split:
            file = trainer.checkpoints.run_dir / BAD_FILES
            known = read_json(file) or {}
            name = os.fsdecode(split.name(error.position))
            entry = [error.position, name, int(split.labels[error.position])]
            known[part] = sorted([*known.get(part, []), entry])
            with durable_file(file) as stream:
                stream.write(json.dumps(known).encode())


def put_back_removed_files(images: ImageSet, run_dir: Path) -> ImageSet:
    """Return the images with those that ended the run before, and are removed since, in their old places.

    So every other image keeps its place, and the run its data set. A file that is not there is skipped as a bad one.
    """
    known = read_json(run_dir / BAD_FILES) or {}
    parts = {part: _put_back(getattr(images, part), known.get(part, [])) for part in ("train", "val")}
    return dataclasses.replace(images, **parts)


def _put_back(split: Split, entries: list[list]) -> Split:
    if not isinstance(split, FolderSplit):
        return split
    removed = [(position, os.fsencode(name), label) for position, name, label in entries]
    return split.with_removed([entry for entry in removed if not split.holds(entry[1])])
