"""The console command: `imgcls train model=vgg16` is `python train.py model=vgg16`, and so on.

Imports nothing but the command that is asked for, so that `imgcls --help` comes at once.
"""

import importlib
import sys

from imgcls import __version__
from imgcls.errors import EXIT_USER_MISTAKE, did_you_mean, quiet_without_reader

COMMANDS = {
    "train": "train a network, or resume a run",
    "evaluate": "test a network, or an ensemble, by a paper's protocol",
    "predict": "name what images show",
    "export": "write a network for other programs: ONNX, PT2, safetensors",
    "plot": "draw curves, first filters and Grad-CAM",
    "compare": "print tables of runs, best first",
    "report": "write runs as one HTML page: curves, tables, commands",
    "paper_tables": "print the papers' tables of their networks, counted on ours",
    "plan": "say what a training will take: memory, hours, energy, money",
    "torchrun": "start train or evaluate on several GPUs, and end with their exit code",
    "replay": "run a run again, and compare the results",
    "doctor": "say before a run whether it will work, and how long it takes",
    "verify_data": "read every image of a set: what is damaged, odd, or there twice",
    "pack": "write a set of images into one file that trains faster",
    "subset": "make a tiny subset of a data set",
    "init": "write a small project: a network of your own, its configs, and a test",
    "sort_val": "sort ImageNet's validation images into class folders",
}


def main() -> None:
    """Run the command that the first word of the command line names."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        with quiet_without_reader():
            print(_help())
    elif name == "--version":
        print(f"imgcls {__version__}")
    elif name in COMMANDS:
        sys.argv[1:] = words
        importlib.import_module(f"imgcls.commands.{name}").main()
    else:
        hint = did_you_mean(name, COMMANDS) or (f" (did you mean imgcls train {name}?)" if "=" in name else "")
        print(f"error: {name}: there is no such command{hint}; one of {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(EXIT_USER_MISTAKE)


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "Train and test image classifiers, every choice a key=value.",
            "",
            *(f"  imgcls {name:<{width}}  {what}" for name, what in COMMANDS.items()),
            "",
            "imgcls COMMAND --help says more; imgcls --version names the version.",
        ]
    )
