"""Make a tiny subset of a data set in ImageNet's layout, for smoke runs."""

import argparse
import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np

from imgcls.config import run_script
from imgcls.data.sets import FolderSplit, is_wnid, list_folder
from imgcls.environment import command, printable
from imgcls.errors import EXIT_INTERRUPTED

UNFINISHED = ".unfinished"  # in the target, with what was asked for, until every image is there


def copy_subset(
    source: Path, target: Path, *, num_classes: int, num_train: int, num_val: int, link: bool = False
) -> int:
    """Copy the first images, by name, of the first classes to `target`, or link to them; return how many.

    What is an image and what a class is as in training: hidden files, and those of other kinds, are passed over. Broken
    off, the same call goes on.

    Raises:
        FileNotFoundError: `source` has no train/ or no val/.
        ValueError: a number below 1, `target` holds something already, or `source` has fewer classes or images.
        OSError: a file cannot be read or written.
    """
    for flag, number in (("--classes", num_classes), ("--train", num_train), ("--val", num_val)):
        if number < 1:
            raise ValueError(f"{flag} {number}; use 1 or more")
    wanted = json.dumps([os.path.abspath(source), num_classes, num_train, num_val, link])
    check_target(target, wanted)
    chosen: list[tuple[Path, Path]] = []
    names: list[str] | None = None
    for part, num_images in (("train", num_train), ("val", num_val)):
        folder = source / part
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder; the layout is train/<class>/*, val/<class>/*")
        listing = list_folder(folder)
        split = FolderSplit.of_listing(folder, listing)
        names = names or listing.classes
        if len(names) < num_classes:
            raise ValueError(f"--classes {num_classes}, but {folder} has {len(names)}")
        for name in names[:num_classes]:
            label = listing.classes.index(name) if name in listing.classes else -1
            images = np.flatnonzero(listing.labels == label)[:num_images].tolist()
            if len(images) < num_images:
                raise ValueError(f"--{part} {num_images}, but {folder / name} has {len(images)} images")
            chosen += [(Path(split.path(i)), target / part / os.fsdecode(split.name(i))) for i in images]
    target.mkdir(parents=True, exist_ok=True)
    (target / UNFINISHED).write_text(wanted)
    for image, copy in chosen:
        add_image(image, copy, link=link)
    (target / UNFINISHED).unlink()
    return len(chosen)


def check_target(target: Path, wanted: str) -> None:
    """Raise ValueError if `target` holds something other than the unfinished subset that is `wanted`."""
    if not target.exists() or not any(target.iterdir()):
        return
    marker = target / UNFINISHED
    if not marker.is_file():
        raise ValueError(f"{target} is not empty; name a new folder")
    # An empty marker: the disk was full, or the process killed, before anything else was written.
    if marker.read_text(errors="replace") not in ("", wanted):
        raise ValueError(
            f"{target} holds an unfinished subset of other numbers or images; remove it, or name a new folder"
        )


def add_image(image: Path, copy: Path, *, link: bool) -> None:
    """Copy or link an image, unless an earlier call did; a kill leaves no half of it."""
    if copy.exists():
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    if link:
        copy.symlink_to(image.resolve())
        return
    partial = copy.with_name(f".{copy.name}.partial")
    try:
        shutil.copyfile(image, partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(copy)


def main() -> None:
    """Run the command line."""
    run_script(subset)


def subset() -> None:
    """Make the subset that the command line asks for."""
    description = (
        "Make a tiny subset of a data set in ImageNet's layout, for smoke runs.\n\n"
        f"    {command('subset')} /data/imagenet /data/tiny --classes 10 --train 50 --val 10"
    )
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=command("subset"), description=description, formatter_class=raw)
    parser.add_argument("source", type=Path, help="a folder with train/<class>/* and val/<class>/*")
    parser.add_argument("target", type=Path, help="a new folder")
    parser.add_argument("--classes", type=int, default=10, help="how many classes (default: 10)")
    parser.add_argument("--train", type=int, default=50, help="training images of each (default: 50)")
    parser.add_argument("--val", type=int, default=10, help="validation images of each (default: 10)")
    parser.add_argument("--link", action="store_true", help="link to the images instead of copying them")
    asked = parser.parse_args()
    sizes = {"num_classes": asked.classes, "num_train": asked.train, "num_val": asked.val}
    try:
        num_images = copy_subset(asked.source, asked.target, **sizes, link=asked.link)
    except (ValueError, OSError) as error:
        parser.error(printable(str(error)))
    except KeyboardInterrupt:
        parser.exit(EXIT_INTERRUPTED, f"\n{printable(str(asked.target))} is unfinished; the same command goes on\n")
    kind = "imagenet" if all(is_wnid(folder.name) for folder in (asked.target / "train").iterdir()) else "folder"
    data = f"data={kind} data.root={shlex.quote(str(asked.target))}"
    print(f"{num_images} images of {asked.classes} classes; a smoke run of 64 of them, and a training on all:")
    print(f"    {command('train')} experiment=smoke {data}")
    print(f"    {command('train')} {data}{' data.num_classes=null' if kind == 'imagenet' else ''}")
