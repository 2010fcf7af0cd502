"""Write a set of images into one file that trains faster."""

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from imgcls.commands.named_set import open_set, split_data_words
from imgcls.config import ScriptParser, run_script
from imgcls.data.sets import PACK_LONGEST, PACK_QUALITY, make_pack
from imgcls.environment import command, default_num_threads, printable
from imgcls.errors import EXIT_INTERRUPTED, ConfigError


def main() -> None:
    """Run the command line."""
    run_script(pack)


def make_parser() -> ScriptParser:
    description = (
        "Write a set of images into one file that trains faster.\n\n"
        f"    {command('pack')} /data/imagenet /data/imagenet.pack\n"
        f"    {command('pack')} data=imagenet data.root=/data/archives /data/imagenet.pack\n"
        f"    {command('train')} data=pack data.root=/data/imagenet.pack\n\n"
        "What is packed is a folder of train/<class>/* and val/<class>/*, or a set of files in train.py's words.\n\n"
        "The pack is lossless: baseline JPEGs are written again, with the same pixels, so that a crop decodes\n"
        "faster; other files stay as they are. It is about as large as the files. With --lossy the longer side\n"
        f"has at most {PACK_LONGEST} pixels, at JPEG quality {PACK_QUALITY}, with colour at half resolution: a third\n"
        "of the size, and faster still. Broken off, the same command goes on."
    )
    parser = ScriptParser("pack", description)
    parser.add_argument("root", nargs="?", help="the folder that holds train/ and val/; or data=... in its place")
    parser.add_argument("pack", type=Path, help="the file to write")
    parser.add_flag("--lossless", help="keep every pixel (default)")
    parser.add_flag("--lossy", help="shrink the images")
    longest = f"with --lossy: pixels of the longer side at most (default: {PACK_LONGEST})"
    parser.add_argument("--longest", type=int, help=longest)
    parser.add_argument("--quality", type=int, help=f"with --lossy: JPEG quality (default: {PACK_QUALITY})")
    parser.add_argument("--threads", type=int, default=default_num_threads(), help="default: all cores")
    parser.add_argument("--train", default="train", help="the folder of the training images (default: train)")
    parser.add_argument("--val", default="val", help="the folder of the validation images (default: val)")
    return parser


def pack() -> None:
    """Pack the images that the command line names."""
    parser = make_parser()
    data_words, others = split_data_words(sys.argv[1:])
    asked = parser.parse(others)
    if asked.lossless and asked.lossy:
        raise ConfigError("--lossless and --lossy: a pack is one of both; leave one out")
    for option in ("longest", "quality"):
        if (value := getattr(asked, option)) is not None and not asked.lossy:
            raise ConfigError(f"--{option} {value} is of a lossy pack: add --lossy, or leave --{option} out")
    longest = PACK_LONGEST if asked.longest is None else asked.longest
    quality = PACK_QUALITY if asked.quality is None else asked.quality
    if data_words and (asked.train != "train" or asked.val != "val"):
        raise ConfigError("--train and --val are folders of DIR; leave them out where data=... names the set")
    images = open_set(asked.root, data_words, name="pack", train=asked.train, val=asked.val)
    if asked.lossy:
        print(f"lossy: longer side at most {longest} px, JPEG quality {quality}, colour at half resolution")
    else:
        print("lossless: every image keeps its pixels; --lossy makes a smaller and faster pack")
    try:
        packed = make_pack(
            images,
            asked.pack,
            lossless=not asked.lossy,
            longest=longest,
            quality=quality,
            num_threads=asked.threads,
            progress=progress,
        )
    except KeyboardInterrupt:
        parser.exit(EXIT_INTERRUPTED, f"\n{asked.pack} is unfinished; the same command goes on from there\n")
    except FileExistsError as error:
        raise ConfigError(str(error)) from error
    for reason in packed.broken:
        print(printable(f"packed as it is: {reason}", lines=False))
    as_they_are = (
        (packed.num_of_other_kind, "no baseline JPEGs"),
        (packed.num_larger, "whose restart markers would make the pack larger than its files"),
    )
    for number, reason in as_they_are:
        if number:
            print(f"packed as they are: {number} images, {reason}, so no faster than their files")
    print(printable(f"{asked.pack}: {packed.num_images} images, {packed.num_bytes / 1e9:.2f} GB"))


def progress(encoded: Iterable[Any], done: int, total: int) -> Iterable[Any]:
    if done:
        print(f"going on after {done} of {total} images")
    bar = partial(tqdm, unit="image", smoothing=0.02, disable=None)
    return bar(encoded, initial=done, total=total)
