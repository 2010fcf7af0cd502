"""The state of a run: its counters, and everything else that a checkpoint saves and a resumed run loads."""

import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from imgcls import distributed
from imgcls.metrics import Scores
from imgcls.runs import check_same_run

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass
class State:
    """The counters of a run: `batch` optimizer steps into epoch `epoch` (the first is 0), `step` since the start."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_top1: float = -math.inf
    best_top5: float | None = None
    best_loss: float = math.inf
    microbatch: int = 0  # images at a time and device
    rollbacks: int = 0
    moving_step: int = 0  # the last logged step whose loss was not at chance
    seconds: float = 0.0

    def better(self, val: Scores, metric: str) -> bool:
        """Return True if scores beat the best so far by `metric`: top1, top5 or loss."""
        if metric == "loss":
            return val.loss < self.best_loss
        if metric == "top5":
            return val.top5 is not None and (self.best_top5 is None or val.top5 > self.best_top5)
        return val.top1 > self.best_top1

    def improve(self, val: Scores, metric: str) -> bool:
        """Keep the scores of the epoch that just ended if they are the best so far; return True if so."""
        better = self.better(val, metric)
        if better:
            self.best_top1, self.best_top5, self.best_loss = val.top1, val.top5, val.loss
            self.best_epoch = self.epoch
        return better


def snapshot(trainer: "Trainer") -> dict[str, Any]:
    """Return everything that the rest of the run depends on, as tensors and plain values."""
    sums = [trainer.meter.sums, trainer.run_log.sums_at_last_log]
    sums_over_ranks = distributed.all_reduce_sum(torch.stack(sums))
    return trainer.description | {
        "model": trainer.model.state_dict(),
        "average": None if trainer.average is None else trainer.average.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "state": asdict(trainer.state) | {"seconds": trainer.seconds()},
        "meters": {"sums": sums_over_ranks[0], "sums_at_last_log": sums_over_ranks[1]},
        "events": trainer.run_log.position(),
        "bad_images": trainer.train_loader.bad_images.share(),
    }


def load(trainer: "Trainer", saved: dict[str, Any]) -> None:
    """Put the run back to where it was when the snapshot `saved` was taken."""
    trainer.model.load_state_dict(saved["model"])
    if trainer.average is not None:
        trainer.average.model.load_state_dict(saved["average"])
    trainer.optimizer.load_state_dict(saved["optimizer"])
    trainer.schedule.load_state_dict(saved["schedule"])
    trainer.scaler = trainer.new_scaler()  # a scaler that was left in the middle of a step refuses the next one
    trainer.scaler.load_state_dict(saved["scaler"])
    for name, value in saved["state"].items():
        setattr(trainer.state, name, value)
    trainer.train_loader.bad_images.add(saved["bad_images"])
    trainer.started_at = time.monotonic()
    trainer.watch.reset()
    # The sums of all ranks go to the main one; the others count from 0.
    for sums, key in ((trainer.meter.sums, "sums"), (trainer.run_log.sums_at_last_log, "sums_at_last_log")):
        sums.copy_(saved["meters"][key]) if distributed.is_main() else sums.zero_()


def resume(trainer: "Trainer") -> dict[str, int] | None:
    """Load the newest checkpoint of the run's directory, if any; return the length of its event files.

    Raises:
        ValueError: the directory belongs to a run on other data or in another precision.
    """
    saved = trainer.checkpoints.latest()
    if saved is None:
        return None
    run_dir, key = trainer.checkpoints.run_dir, "precision"
    check_same_run(run_dir, "data set", saved["data"], trainer.description["data"])
    check_same_run(run_dir, key, {key: saved[key]}, {key: trainer.description[key]})
    load(trainer, saved)
    log.info("going on after step %d, epoch %d", trainer.state.step, trainer.state.epoch)
    return saved["events"]
