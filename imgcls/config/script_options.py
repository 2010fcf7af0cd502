"""Command lines of the small scripts: options as --key value or key=value, and one line for a mistake.

Imports no torch, so that help and mistakes come at once.
"""

import argparse
import io
import logging
import sys
from collections.abc import Callable, Sequence


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; `checkpoint=x.pt` is as good as `--checkpoint x.pt`, as with train.py and evaluate.py."""
    known = {option.removeprefix("--") for action in parser._actions for option in action.option_strings}
    words = list(sys.argv[1:] if argv is None else argv)
    turned = [f"--{word}" if word.partition("=")[1] and word.partition("=")[0] in known else word for word in words]
    return parser.parse_intermixed_args(turned)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which network: a checkpoint, or weights from elsewhere."""
    parser.add_argument("--checkpoint", metavar="FILE", help="of a run: runs/.../best.pt, or its folder")
    parser.add_argument("--weights", metavar="W", help="in place of a checkpoint: torchvision, a file, or a URL")
    parser.add_argument("--network", metavar="NAME", help="with weights: one of conf/model, such as resnet50")
    parser.add_argument(
        "--override", metavar="KEY=VALUE", action="append", default=[], help="with weights: model.arch=alexnet, ..."
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")


def check_network(options: argparse.Namespace) -> None:
    """Hold those options against each other.

    Raises:
        ValueError: no network is named, or two are.
    """
    if (options.checkpoint is None) == (options.weights is None):
        raise ValueError("name the network: checkpoint=runs/.../best.pt, or weights=torchvision network=resnet50")
    if options.weights is not None and options.network is None:
        raise ValueError(f"weights={options.weights} of which network? add network=resnet50, or another of conf/model")


def any_names() -> None:
    """Read and print file names as they are, whatever their bytes: they need be no text."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")


def run_script(task: Callable[[], int | None]) -> None:
    """Run a script's task and exit with its code; a user's mistake is one line and code 2."""
    any_names()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code = task()
    except BrokenPipeError:  # the reader of our output, such as head, has enough
        sys.stderr.close()
        code = 0
    except Exception as error:
        users = isinstance(error, ValueError | FileNotFoundError)
        code = getattr(error, "exit_code", 2 if users else None)
        if code is None:
            raise
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code or 0)
