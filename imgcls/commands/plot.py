"""Draw a run, or several: curves, first filters, Grad-CAM."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls.config import ScriptParser, add_network, network_of, run_script
from imgcls.environment import command, printable
from imgcls.runs import BEST, name_disk_errors
from imgcls.startup import check_network_files

if TYPE_CHECKING:
    from PIL import Image


def make_parser() -> ScriptParser:
    plot = command("plot")
    parser = ScriptParser(
        "plot",
        "Draw curves of runs as curves.png, the first filters of a network as filters.png, and with images what the\n"
        "network looks at (Grad-CAM) as gradcam.png.",
        epilog="examples:\n"
        f"  {plot} runs/a\n"
        f"  {plot} runs/a runs/b out=both\n"
        f"  {plot} runs/a --images photo.jpg folder/\n"
        f"  {plot} model=vgg16 weights=torchvision images=photo.jpg",
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs; several are drawn into one picture")
    add_network(parser)
    parser.add_argument(
        "--images", nargs="+", action="extend", default=[], metavar="FILE", help="files, folders, patterns for Grad-CAM"
    )
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="explain this class (default: the predicted)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the pictures (default: the run's, or here)")
    return parser


def plot() -> int:
    """Draw what the command line names."""
    options = make_parser().parse()
    explicit = options.checkpoint or options.weights or options.network
    network = network_of(options) if explicit or not options.runs else None
    check_network_files([options.checkpoint] if options.checkpoint else [], options.weights)
    from imgcls.distributed import process_group  # here: torch takes seconds, which no mistake should wait for
    from imgcls.inference import find_images, open_member, plot_filters, plot_gradcam, plot_runs

    single = options.runs[0] if len(options.runs) == 1 else None
    out = options.out or single or Path()

    def save(name: str, picture: "Image.Image") -> None:
        with name_disk_errors(out / name):
            out.mkdir(parents=True, exist_ok=True)
            picture.save(out / name)
        print(printable(str(out / name)))

    if options.runs:
        save("curves.png", plot_runs(options.runs))
    checkpoint = options.checkpoint or (single if single and (single / BEST).exists() else None)
    if checkpoint is None and options.weights is None:
        return 0
    member = open_member(None if options.weights else checkpoint, options.weights, network, options.weights_kind)
    with process_group(options.device) as device:
        try:
            save("filters.png", plot_filters(member.build(device)))
        except ValueError as error:
            print(printable(f"no filters: {error}"), file=sys.stderr)
        if options.images:
            images = find_images(options.images, sys.stdin)
            picture, bad = plot_gradcam(member, images.files, device=device, class_name=options.class_name)
            for reason in [*images.passed_over, *map(str, bad)]:
                print(printable(f"passed over: {reason}", lines=False), file=sys.stderr)
            save("gradcam.png", picture)
    return 0


def main() -> None:
    """Run the command line."""
    run_script(plot)
