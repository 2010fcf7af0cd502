"""Train an image classifier: `python train.py model=vgg16 data=imagenet data.root=DIR`; `--help` says more."""

import logging
from pathlib import Path

from imgcls.config import Config, command_line
from imgcls.environment import launch, printable, quiet_other_ranks
from imgcls.runs import require_top1, results_table, runs_table
from imgcls.startup import look_up_run

log = logging.getLogger("imgcls")


def train(config: Config, path: Path) -> None:
    """Train the run of `config` in the directory `path`, or resume it; if it has finished, show its results."""
    quiet_other_ranks()
    alone = launch() is None
    config, results, images = look_up_run(config, path) if alone else (config, None, None)
    finished = results is not None
    if results is None:
        from imgcls.distributed import process_group  # here: torch takes seconds, which no mistake should wait for
        from imgcls.training import build_trainer, look_up_run_on_all_ranks, open_run_directory

        with process_group(config.device) as device:
            if not alone:
                config, results, images = look_up_run_on_all_ranks(config, path)
                finished = results is not None
            if results is None:
                with open_run_directory(config, path) as run_dir:
                    results = build_trainer(config, run_dir, device, images=images).fit()
                    run_dir.finish(results)
    if finished:
        log.info("this run has finished; overwrite=true trains it from scratch, name=... or seed=... trains another")
    log.info(results_table(results, path))
    require_top1(config.min_val_top1, results)


if __name__ == "__main__":
    outcomes = command_line(train)
    if outcomes:
        print(printable(runs_table(Path(outcome.run_dir) for outcome in outcomes)))
        raise SystemExit(any(outcome.error for outcome in outcomes))
