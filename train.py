"""Train an image classifier: `python train.py model=vgg16 data=imagenet data.root=DIR`; `--help` says more."""

import logging
from pathlib import Path

from imgcls.config import Config, command_line
from imgcls.runs import require_top1, results_table, runs_table

log = logging.getLogger("imgcls")


def train(cfg: Config, run_path: Path) -> None:
    """Train the run that `cfg` describes in its directory, or go on with it; a finished one shows its results."""
    from imgcls import distributed
    from imgcls.training import (  # here: torch takes seconds, which a config error need not wait for
        build_trainer,
        open_run_directory,
    )

    with distributed.process_group(cfg.device) as device, open_run_directory(cfg, run_path) as run_dir:
        results = run_dir.results()
        if results is None:
            results = build_trainer(cfg, run_dir, device).fit()
            run_dir.finish(results)
        else:
            log.info("this run has finished; train anew with overwrite=true, or another with name=... or seed=...")
        log.info(results_table(results, run_dir.path))
        require_top1(cfg.min_val_top1, results)


if __name__ == "__main__":
    outcomes = command_line(train)
    if outcomes:
        print(runs_table(Path(outcome.run_dir) for outcome in outcomes))
        raise SystemExit(any(outcome.error for outcome in outcomes))
