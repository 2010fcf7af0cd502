"""Train an image classifier: `python train.py model=vgg16 data=imagenet data.root=DIR`; `--help` says more."""

import logging
from pathlib import Path

from imgcls import config, runs

log = logging.getLogger("imgcls")


def train(cfg: config.Config, run_path: Path) -> None:
    """Train the run that `cfg` describes in its directory, or go on with it; a finished one shows its results."""
    from imgcls import build, distributed  # here: torch takes seconds, which a config error need not wait for

    with distributed.process_group(cfg.device) as device, build.run_directory(cfg, run_path) as run_dir:
        results = run_dir.results()
        if results is None:
            results = build.trainer(cfg, run_dir, device).fit()
            run_dir.finish(results)
        else:
            log.info("this run has finished; train anew with overwrite=true, or another with name=... or seed=...")
        log.info(runs.summary(results, run_dir.path))
        runs.hold_to(cfg.min_val_top1, results)


if __name__ == "__main__":
    outcomes = config.command_line(train)
    if outcomes:
        print(runs.table(Path(outcome.run_dir) for outcome in outcomes))
        raise SystemExit(any(outcome.error for outcome in outcomes))
