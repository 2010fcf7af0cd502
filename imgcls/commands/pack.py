"""Shrink a set of images into one file that trains faster and fits a page cache."""

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from imgcls.config import run_script
from imgcls.data.sets import make_pack, open_folder
from imgcls.environment import command, default_num_threads, printable
from imgcls.errors import EXIT_INTERRUPTED


def main() -> None:
    """Run the command line."""
    run_script(pack)


def make_parser() -> argparse.ArgumentParser:
    description = (
        "Shrink a set of images into one file that trains faster and fits a page cache.\n\n"
        f"    {command('pack')} /data/imagenet /data/imagenet.pack\n"
        f"    {command('train')} data=pack data.root=/data/imagenet.pack\n\n"
        "It is lossy: the longer side is at most 400 pixels, JPEG quality 90, colour at half resolution; a JPEG\n"
        "that is no larger stays as it is. What is packed is train/<class>/* and val/<class>/*. Broken off, the\n"
        "same command goes on."
    )
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=command("pack"), description=description, formatter_class=raw)
    parser.add_argument("root", help="the folder that holds train/ and val/")
    parser.add_argument("pack", type=Path, help="the file to write")
    parser.add_argument("--longest", type=int, default=400, help="pixels of the longer side at most (default: 400)")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality (default: 90)")
    parser.add_argument("--threads", type=int, default=default_num_threads(), help="default: all cores")
    parser.add_argument("--train", default="train", help="the folder of the training images (default: train)")
    parser.add_argument("--val", default="val", help="the folder of the validation images (default: val)")
    return parser


def pack() -> None:
    """Pack the images that the command line names."""
    parser = make_parser()
    asked = parser.parse_args()
    print(f"lossy: longer side at most {asked.longest} px, JPEG quality {asked.quality}, colour at half resolution")
    try:
        packed = make_pack(
            open_folder(asked.root, train=asked.train, val=asked.val),
            asked.pack,
            longest=asked.longest,
            quality=asked.quality,
            num_threads=asked.threads,
            progress=progress,
        )
    except KeyboardInterrupt:
        parser.exit(EXIT_INTERRUPTED, f"\n{asked.pack} is unfinished; the same command goes on from there\n")
    except (ValueError, OSError) as error:
        parser.error(printable(str(error)))
    for reason in packed.unshrunk:
        print(printable(f"packed as it is: {reason}", lines=False))
    print(printable(f"{asked.pack}: {packed.num_images} images, {packed.num_bytes / 1e9:.2f} GB"))


def progress(encoded: Iterable[bytes], done: int, total: int) -> Iterable[bytes]:
    if done:
        print(f"going on after {done} of {total} images")
    bar = partial(tqdm, unit="image", smoothing=0.02, disable=None)
    return bar(encoded, initial=done, total=total)
