"""Train each classic network by `python train.py model=X`, nothing else said, and print the README's table of results.

    python scripts/dev/default_set.py                          all of them: more than an hour on two cores
    python scripts/dev/default_set.py vgg16 resnet18           these
    python scripts/dev/default_set.py --write README.md        and put the table between its two marks in a file

A network whose run is finished in --out is not trained again: its row is made of that run. The weights are deleted, ten
gigabytes of them; the metrics stay.
"""

import argparse
import csv
import datetime
import json
import subprocess
import sys
from pathlib import Path

from imgcls.runs import duration_text

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = (
    *("lenet5", "alexnet", "alexnet_groups2", "vgg11", "vgg11_lrn", "vgg11_bn", "vgg13", "vgg13_bn"),
    *("vgg16_1x1", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "googlenet"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
)
COMMANDS = {name: f"model={name}" for name in NETWORKS} | {"alexnet_groups2": "model=alexnet model.groups=2"}
MARKS = ("<!-- default set -->", "<!-- /default set -->")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(COMMANDS), metavar="NETWORK", help=", ".join(COMMANDS))
    parser.add_argument("--out", type=Path, default=Path("runs/default_set"), help="where the runs are")
    parser.add_argument("--write", type=Path, metavar="FILE", help=f"replace what is between {MARKS[0]} and {MARKS[1]}")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.networks) - set(COMMANDS)):
        parser.error(f"no network {', '.join(unknown)}; there are {', '.join(COMMANDS)}")
    if asked.write and not all(mark in asked.write.read_text() for mark in MARKS):
        parser.error(f"--write={asked.write} lacks the marks {MARKS[0]} and {MARKS[1]}; add them where the table goes")
    for network in asked.networks:
        train(network, asked.out / network)
    table = "\n".join([*HEAD, *(row(network, asked.out / network) for network in asked.networks)])
    print(table)
    if asked.write:
        before, _, rest = asked.write.read_text().partition(MARKS[0])
        asked.write.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


HEAD = (
    "| command | image | lr, and what became of it | best val. top-1 | minutes | date |",
    "|---|---|---|---|---|---|",
)


def train(network: str, run_dir: Path) -> None:
    """Train a network, unless its results are in `run_dir`; the program's lines go to the terminal.

    Raises:
        SystemExit: the training failed.
    """
    if (run_dir / "results.json").exists():
        return
    command = [sys.executable, str(ROOT / "train.py"), *COMMANDS[network].split(), f"hydra.run.dir={run_dir}"]
    if code := subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    for weights in run_dir.glob("*.pt"):
        weights.unlink()


def row(network: str, run_dir: Path) -> str:
    """Return the Markdown row of a finished run."""
    results_file = run_dir / "results.json"
    results = json.loads(results_file.read_text())
    config = json.loads((run_dir / "config.json").read_text())
    with (run_dir / "metrics.csv").open(newline="") as file:
        lrs = list(dict.fromkeys(f"{float(line['lr']):.2g}" for line in csv.DictReader(file)))
    date = datetime.date.fromtimestamp(results_file.stat().st_mtime)
    shown = lrs if len(lrs) < 4 else [lrs[0], "…", lrs[-1]]
    return (
        f"| `python train.py {COMMANDS[network]}` | {config['image_size']} px | {' → '.join(shown)} "
        f"| {results['val_top1']:.1f} % | {duration_text(results['seconds'])} | {date} |"
    )


if __name__ == "__main__":
    main()
