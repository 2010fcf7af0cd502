"""Train an image classifier, or resume its run, once or for each job of a sweep."""

import logging
from pathlib import Path

from imgcls.config import Config, command_line
from imgcls.environment import printable
from imgcls.library import run_training
from imgcls.runs import require_top1, results_table, runs_table

log = logging.getLogger("imgcls")


def train(config: Config, path: Path) -> None:
    """Train the run of `config` in the directory `path`, or resume it, and show its results."""
    results = run_training(config, path)
    log.info(results_table(results, path))
    require_top1(config.min_val_top1, results)


def main() -> None:
    """Run the command line."""
    outcomes = command_line(train)
    if outcomes:
        print(printable(runs_table(Path(outcome.run_dir) for outcome in outcomes)))
        raise SystemExit(any(outcome.error for outcome in outcomes))
