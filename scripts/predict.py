"""Name what images show: `python scripts/predict.py checkpoint=runs/x/best.pt photo.jpg folder/ '*.png'`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from imgcls.config import add_network, check_network, parse_options, run_script
from imgcls.inference import check_picture_file, protocols

PROTOCOLS = ("center", "ten_crop", "googlenet144", "dense", "dense_resnet")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Name what images show. Options may be written key=value.",
        epilog="Files that are no images are named on standard error and passed over. A photo's EXIF orientation "
        "is not applied, as in training: turn photos upright first.",
    )
    add_network(made)
    made.add_argument("images", nargs="+", help="files, folders, patterns; - reads a list from standard input")
    made.add_argument("--top", type=int, default=5, metavar="N", help="classes for each image (default: 5)")
    made.add_argument("--format", choices=("table", "csv", "json"), default="table")
    made.add_argument("--protocol", choices=PROTOCOLS, default="center")
    made.add_argument("--flip", action="store_true", help="show each view mirrored too (all but center do)")
    made.add_argument("--contact-sheet", type=Path, metavar="PNG", help="also draw the images with their classes")
    return made


def predict() -> int:
    """Predict what the command line names; 0 where any image could be read."""
    options = parse_options(parser())
    check_network(options)
    if options.top < 1:
        raise ValueError(f"top={options.top} shows nothing; use 1 or more")
    if options.contact_sheet is not None:
        check_picture_file("contact-sheet", options.contact_sheet)
    from imgcls import distributed
    from imgcls.inference import (  # here: torch takes seconds, help need not wait
        FORMATS,
        PROTOCOL_NAMES,
        RESNET_SCALES,
        find_images,
        open_member,
        predict_files,
        save_contact_sheet,
    )

    found = find_images(options.images, sys.stdin)
    names = {name: kind for kind, name in PROTOCOL_NAMES.items()}
    settings: dict[str, Any] = {"scales": RESNET_SCALES} if options.protocol == "dense_resnet" else {}
    if options.flip:
        settings["flip"] = True
    protocol = getattr(protocols, names[options.protocol.removesuffix("_resnet")])(**settings)
    with distributed.process_group(options.device) as device:
        member = open_member(options.checkpoint, options.weights, options.network, options.override)
        seen, bad = predict_files(member, found.files, device=device, protocol=protocol, top=options.top)
    for reason in [*found.passed_over, *map(str, bad)]:
        print(f"passed over: {reason}", file=sys.stderr)
    if not seen:
        raise ValueError("none of the images can be read")
    print(FORMATS[options.format](seen))
    if options.contact_sheet is not None:
        save_contact_sheet(seen, options.contact_sheet)
    return 0


if __name__ == "__main__":
    run_script(predict)
