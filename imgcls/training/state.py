"""The state of a run: its counters, and everything else that a checkpoint saves and a resumed run loads."""

import logging
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from imgcls import distributed
from imgcls.checkpoints import CheckpointError
from imgcls.metrics import METRICS, Scores, known_metrics
from imgcls.runs import check_same_run
from imgcls.training.changes import changed_settings, fit_to_changes, log_changes
from imgcls.training.check_saved import check_saved
from imgcls.training.sharding import load_whole, load_whole_optimizer, whole

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
    best: dict[str, float | None] = field(default_factory=dict)  # the scores of the best epoch
    microbatch: int = 0  # images at a time and device
    rollbacks: int = 0
    moving_step: int = 0  # the last logged step whose loss was not at chance
    validated_step: int = 0  # the step after which the network was last validated
    seconds: float = 0.0

    def improve(self, val: Scores, metric: str) -> bool:
        """Keep the scores of the epoch, or of the part of it, that was just validated if they are the best so far.

        Returns:
            True if they are, by `metric`.

        Of two epochs that are equal in it, the one with the lower loss is the better.
        """
        values = val.values()
        value = values.get(metric)
        better = known_metrics([metric])[metric].better(value, self.best.get(metric))
        if value == self.best.get(metric):  # of two epochs as good, the one with the lower loss
            better = METRICS["loss"].better(values["loss"], self.best.get("loss"))
        if better:
            self.best, self.best_epoch = values, self.epoch + (self.batch > 0)
        return better


def snapshot(trainer: "Trainer") -> dict[str, Any]:
    """Return everything that the rest of the run depends on, as tensors and plain values."""
    sums = [trainer.meter.sums, trainer.run_log.sums_at_last_log]
    sums_over_ranks = distributed.all_reduce_sum(torch.stack(sums))
    return trainer.description | {
        "model": whole(trainer.model.state_dict()),
        "average": None if trainer.average is None else whole(trainer.average.model.state_dict()),
        "optimizer": whole(trainer.optimizer.state_dict()),
        "schedule": trainer.schedule.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "state": asdict(trainer.state) | {"seconds": trainer.seconds()},
        "meters": {"sums": sums_over_ranks[0], "sums_at_last_log": sums_over_ranks[1]},
        "events": trainer.run_log.position(),
        "bad_images": trainer.train_loader.bad_images.share(),
    }


def load(trainer: "Trainer", saved: dict[str, Any]) -> None:
    """Restore the run as it was when the snapshot `saved` was taken, by this config or by one before a change."""
    saved = fit_to_changes(trainer, saved)
    load_whole(trainer.model, saved["model"])
    if trainer.average is not None:
        load_whole(trainer.average.model, saved["average"])
    load_whole_optimizer(trainer.optimizer, saved["optimizer"])
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
        ValueError: the directory belongs to a run on other data or with other metrics, or cannot go on so.
    """
    saved = trainer.checkpoints.latest()
    if saved is None:
        return None
    run_dir, description = trainer.checkpoints.run_dir, trainer.description
    for key in ("config", "data"):
        if not isinstance(saved.get(key), dict):
            raise CheckpointError(f"{run_dir}: the checkpoint that the run resumes from has no {key}; remove it")
    check_same_run(run_dir, "data set", saved["data"], description["data"])
    check_same_run(run_dir, "release of imgcls", {"metrics": saved.get("metrics")}, {"metrics": description["metrics"]})
    if isinstance(saved.get("state"), dict):
        saved["state"].setdefault("validated_step", 0)  # which earlier releases did not count
    if isinstance(saved.get("optimizer"), dict) and isinstance(saved["optimizer"].get("param_groups"), list):
        for group in filter(lambda group: isinstance(group, dict), saved["optimizer"]["param_groups"]):
            group.pop("is_head", None)  # which earlier releases marked
    fitted = fit_to_changes(trainer, saved)
    check_saved(trainer, fitted)
    load(trainer, fitted)
    changed = changed_settings(trainer, saved)
    if changed.keys() & {"batch_size", "microbatch"}:
        trainer.state.microbatch = 0  # chosen again
    trainer.resumed_at = trainer.state.step
    if trainer.state.best_epoch and (wrong := trainer.checkpoints.check_best()):
        log.warning(
            "%s: the weights of the best epoch, %d, are lost; the next epoch that is better saves its own",
            wrong,
            trainer.state.best_epoch,
        )
    log.info("going on after step %d, in epoch %d", trainer.state.step, trainer.state.epoch + 1)
    log_changes(trainer, changed)
    return saved["events"]
