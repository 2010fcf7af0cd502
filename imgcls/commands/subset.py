"""Make a tiny subset of a set of images: folders in ImageNet's layout, or one tar of them, for smoke runs."""

import collections
import io
import json
import os
import shlex
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls.commands.named_set import open_set, split_data_words
from imgcls.config import ScriptParser, run_script
from imgcls.data.decoding import EXTENSIONS, ending_of_content
from imgcls.data.sets import FileSplit, FolderSplit, ImageSet, is_wnid
from imgcls.environment import command, printable
from imgcls.errors import EXIT_INTERRUPTED, ConfigError, text_of

UNFINISHED = ".unfinished"  # in the target, with what was asked for, until every image is there
TAR = ".tar"


class Numbers(NamedTuple):
    """How many classes, and how many training and validation images of each."""

    classes: int
    train: int
    val: int


class Chosen(NamedTuple):
    """An image that goes into the subset, and its name there: train/<class>/<file>."""

    split: FileSplit
    index: int
    name: bytes

    def file(self) -> Path:
        """Return the file that holds this image alone, if there is one.

        Raises:
            ConfigError: it is in an archive or a table.
        """
        if not isinstance(self.split, FolderSplit):
            raise ConfigError("--link links to files, and these images have none of their own; leave it out")
        return Path(self.split.path(self.index))


def choose(images: ImageSet, numbers: Numbers) -> list[Chosen]:
    """Return the first images, by name, of the first classes.

    Raises:
        ValueError: a number below 1, the set has fewer classes or images, or no files.
    """
    for flag, number in zip(("--classes", "--train", "--val"), numbers, strict=True):
        if number < 1:
            raise ValueError(f"{flag} {number}; use 1 or more")
    if len(images.classes) < numbers.classes:
        raise ValueError(f"--classes {numbers.classes}, but the set has {len(images.classes)}")
    folders = folder_names(images.classes[: numbers.classes])
    chosen = []
    for part, split, number in (("train", images.train, numbers.train), ("val", images.val, numbers.val)):
        if not isinstance(split, FileSplit):
            raise ValueError("this set is in memory as it is; name one of image files")
        for label, folder in enumerate(folders):
            places = np.flatnonzero(split.labels == label)[:number].tolist()
            if len(places) < number:
                name = printable(images.classes[label], lines=False)
                raise ValueError(f"--{part} {number}, but class {name} has {len(places)} images there")
            heads = {os.fsencode(f"{start}{name}/") for start in ("", f"{part}/") for name in (images.classes[label],)}
            chosen += _named(split, places, os.fsencode(f"{part}/{folder}"), heads)
    return chosen


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return names of folders for classes, no two the same: without slashes, and not hidden."""
    names = [name.replace("/", "_").replace("\0", "_").lstrip(".") or "_" for name in classes]
    counts = collections.Counter(names)
    return [name if counts[name] == 1 else f"{name} {label}" for label, name in enumerate(names)]


def _named(split: FileSplit, places: Sequence[int], folder: bytes, heads: set[bytes]) -> Iterator[Chosen]:
    """Yield images with their names below the folder of their class: where two would be the same, with a number."""
    taken: set[bytes] = set()
    for place in places:
        name = split.name(place)
        name = next((name[len(head) :] for head in sorted(heads, reverse=True) if name.startswith(head)), name)
        parts = [part.lstrip(b".") or b"_" for part in name.split(b"/") if part not in (b"", b".", b"..")]
        if not name.lower().endswith(EXTENSIONS):  # rows of a table need not be called like files
            parts[-1] += os.fsencode(ending_of_content(split.read(place)))
        if b"/".join(parts) in taken:
            parts[-1] = b"%d-%s" % (place, parts[-1])
        taken.add(b"/".join(parts))
        yield Chosen(split, place, b"/".join([folder, *parts]))


def write_folders(chosen: Sequence[Chosen], target: Path, *, wanted: str, link: bool = False) -> None:
    """Write images as files below `target`, or links to them. Broken off, the same call goes on.

    Args:
        wanted: what was asked for, in words.

    Raises:
        ValueError: what is to be linked to is no file.
        OSError: a file cannot be read or written.
    """
    for image in chosen if link else ():
        image.file()  # refuses what has none
    target.mkdir(parents=True, exist_ok=True)
    (target / UNFINISHED).write_text(wanted)
    for image in chosen:
        add_image(image, target / os.fsdecode(image.name), link=link)
    (target / UNFINISHED).unlink()


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


def add_image(image: Chosen, copy: Path, *, link: bool) -> None:
    """Write an image, or a link to it, unless an earlier call did; a kill leaves no half of it."""
    if copy.exists():
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    if link:
        copy.symlink_to(image.file().resolve())
        return
    partial = copy.with_name(f".{copy.name}.partial")
    try:
        partial.write_bytes(image.split.read(image.index))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(copy)


def is_tar(target: Path) -> bool:
    """Return True if one tar is asked for."""
    return target.name.endswith(TAR)


def write_tar(chosen: Sequence[Chosen], target: Path) -> None:
    """Write images into a tar, the same bytes each time; it appears whole or not at all.

    Raises:
        OSError: the tar cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as archive:
            for image in chosen:
                data = image.split.read(image.index)
                member = tarfile.TarInfo(os.fsdecode(image.name))  # of no owner, from 1970
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    """Run the command line."""
    run_script(subset)


def make_parser() -> ScriptParser:
    description = (
        "Make a tiny subset of a set of images, for smoke runs: folders in ImageNet's layout, or one tar of them.\n\n"
        f"    {command('subset')} /data/imagenet /data/tiny --classes 10 --train 50 --val 10\n"
        f"    {command('subset')} data=imagenet data.root=/data/archives /data/tiny.tar\n\n"
        "The images are a folder of train/<class>/* and val/<class>/*, or any set of files in train.py's words."
    )
    parser = ScriptParser("subset", description)
    parser.add_argument("source", nargs="?", help="a folder with train/ and val/; or data=... in its place")
    parser.add_argument("target", type=Path, help="a new folder, or a file whose name ends with .tar")
    parser.add_argument("--classes", type=int, default=10, help="how many classes (default: 10)")
    parser.add_argument("--train", type=int, default=50, help="training images of each (default: 50)")
    parser.add_argument("--val", type=int, default=10, help="validation images of each (default: 10)")
    parser.add_flag("--link", help="link to the images instead of copying them")
    return parser


def subset() -> None:
    """Make the subset that the command line asks for."""
    parser = make_parser()
    data_words, others = split_data_words(sys.argv[1:])
    asked = parser.parse(others)
    numbers, target = Numbers(asked.classes, asked.train, asked.val), asked.target
    source = os.path.abspath(asked.source) if asked.source is not None else sorted(data_words)
    wanted = json.dumps([source, *numbers, asked.link])
    try:
        if not is_tar(target):
            check_target(target, wanted)
        elif asked.link:
            raise ConfigError("--link makes no tar; name a folder, or leave --link out")
        elif target.exists():
            raise ConfigError(f"{target} exists; remove it, or name a new file")
        images = open_set(asked.source, data_words, name="subset")
        chosen = choose(images, numbers)
        if is_tar(target):
            write_tar(chosen, target)
        else:
            write_folders(chosen, target, wanted=wanted, link=asked.link)
    except OSError as error:
        raise ConfigError(text_of(error)) from error
    except KeyboardInterrupt:
        parser.exit(EXIT_INTERRUPTED, f"\n{printable(str(target))} is unfinished; the same command goes on\n")
    print("\n".join(advice(target, len(chosen), folder_names(images.classes[: numbers.classes]))))


def advice(target: Path, num_images: int, folders: Sequence[str]) -> list[str]:
    """Return how a subset of some class folders is used: the commands that train on it."""
    is_imagenet = all(map(is_wnid, folders))
    kind = "imagenet" if is_imagenet else "webdataset" if is_tar(target) else "folder"
    order = ""
    if sorted(folders, key=os.fsencode) != list(folders):
        order = " data.class_order=natural" if all(name.isdecimal() for name in folders) else ""
    data = f"data={kind} data.root={shlex.quote(str(target))}{order}"
    lines = [f"{num_images} images of {len(folders)} classes; a smoke run of 64 of them, and a training on all:"]
    lines.append(f"    {command('train')} experiment=smoke {data}")
    lines.append(f"    {command('train')} {data}{' data.num_classes=null' if is_imagenet else ''}")
    if not order and sorted(folders, key=os.fsencode) != list(folders):
        lines.append("the classes are in the order of their names there, which was another one in the set")
    return lines
