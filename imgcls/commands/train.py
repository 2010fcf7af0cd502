"""Train an image classifier, or resume its run, or run a sweep of them."""

import logging
import sys
from pathlib import Path

from imgcls.config import Config, Sweep, command_line
from imgcls.library import run_training
from imgcls.runs import require_top1, results_table

log = logging.getLogger("imgcls")


def train(config: Config, path: Path) -> None:
    """Train the run of `config` in the directory `path`, or resume it, and show its results."""
    results = run_training(config, path, words=sys.argv[1:])
    log.info(results_table(results, path))
    require_top1(config.min_val_top1, results)


def sweep(jobs: Sweep) -> int:
    """Run the jobs of a command line with -m, each in a separate process, and return the exit code."""
    from imgcls.sweeps import run_sweep  # here: a single run needs none of it

    return run_sweep(jobs)


def main() -> None:
    """Run the command line."""
    command_line(train, sweep=sweep)
