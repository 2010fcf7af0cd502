"""Name what images show."""

import sys
from pathlib import Path

from imgcls.config import ScriptParser, add_network, build_protocol, network_of, protocol_names, run_script
from imgcls.environment import command, printable
from imgcls.errors import ConfigError
from imgcls.startup import check_network_files, check_picture_file


def make_parser() -> ScriptParser:
    predict = command("predict")
    parser = ScriptParser(
        "predict",
        "Name what images show.",
        epilog="Files that are not images are named on standard error and left out. A photo is turned by its EXIF\n"
        "data if the network was trained so (data.orientation=apply), or with orientation=apply.\n\n"
        "examples:\n"
        f"  {predict} checkpoint=runs/x/best.pt photo.jpg folder/ '*.png' format=json\n"
        f"  {predict} model=resnet50 model.stride_in_3x3=true weights=torchvision photo.jpg",
    )
    add_network(parser)
    parser.add_argument("images", nargs="+", help="files, folders, patterns; - reads a list from standard input")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes for each image (default: 5)")
    parser.add_choice("--format", ("table", "csv", "json"), help="of the output")
    parser.add_choice("--protocol", protocol_names(first="center"), help="the views of each image, as in testing")
    parser.add_flag("--flip", help="show each view mirrored too (all but center do)")
    parser.add_choice("--orientation", ("trained", "apply", "stored"), help="of photos that EXIF data would turn")
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="also draw the images with their classes")
    return parser


def predict() -> int:
    """Predict the images that the command line names; 0 if any of them could be read."""
    options = make_parser().parse()
    network = network_of(options)
    if options.top < 1:
        raise ConfigError(f"top={options.top} shows nothing; use 1 or more")
    if options.contact_sheet is not None:
        check_picture_file("contact-sheet", options.contact_sheet)
    check_network_files([options.checkpoint] if options.checkpoint else [], options.weights)
    from imgcls.distributed import process_group  # here: torch takes seconds, which no mistake should wait for
    from imgcls.inference import (
        FORMATS,
        describe_orientation,
        find_images,
        open_member,
        predict_files,
        save_contact_sheet,
    )

    images = find_images(options.images, sys.stdin)
    protocol = build_protocol(options.protocol, **({"flip": True} if options.flip else {}))
    with process_group(options.device) as device:
        member = open_member(options.checkpoint, options.weights, network, options.weights_kind)
        if options.orientation != "trained":
            member.config.data.orientation = options.orientation
        predictions, bad = predict_files(member, images.files, device=device, protocol=protocol, top=options.top)
    for reason in [*images.passed_over, *map(str, bad)]:
        print(printable(f"passed over: {reason}", lines=False), file=sys.stderr)
    if options.orientation == "trained" and (line := describe_orientation(member, images.files)) is not None:
        print(printable(line, lines=False), file=sys.stderr)
    if not predictions:
        raise ConfigError("none of the images can be read")
    text = FORMATS[options.format](predictions)
    # CSV for a program has the names as they are.
    print(printable(text) if sys.stdout.isatty() else text)
    if options.contact_sheet is not None:
        save_contact_sheet(predictions, options.contact_sheet)
    return 0


def main() -> None:
    """Run the command line."""
    run_script(predict)
