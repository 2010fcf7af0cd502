"""What a run reports while it trains: log lines, the progress bar, metrics.csv and the loggers."""

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from imgcls import distributed
from imgcls.data.loading import Loader
from imgcls.device import most_memory_used
from imgcls.metrics import Meter, Scores
from imgcls.models import first_convolution
from imgcls.runs import LEAST_SECONDS, LEAST_STEPS, Clock, Events, Progress, duration_text, estimate_text
from imgcls.training.divergence import check_moving
from imgcls.training.sharding import whole
from imgcls.training.stopping import reason_to_end

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer

log = logging.getLogger(__name__)


class RunLog:
    """The log of a run; `open` it before the first step.

    Args:
        open_events: opens metrics.csv and the loggers, cut off at the lengths that a checkpoint saved.
        meter: an empty one of the run's metrics.
    """

    events: Events

    def __init__(self, open_events: Callable[[dict[str, int] | None], Events], meter: Meter) -> None:
        self._open_events = open_events
        self.sums_at_last_log = meter.sums.clone()
        self._is_mixed = False
        self._seconds_a_batch: dict[str, float] = {}  # of the newest pass of training and of validation
        self._epoch_started = time.monotonic()
        self._estimated = False
        self.raw_val: Scores | None = None  # of the network itself, where the average of its weights is what counts

    def open(self, position: dict[str, int] | None) -> None:
        """Open the files, cut off at `position`; None starts new ones."""
        self.events = self._open_events(position)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.events.close()  # of a run that stops or fails; the results of one that finishes have closed them

    def reopen(self, position: dict[str, int] | None) -> None:
        """Close the files and open them again, cut off at `position`."""
        self.events.close()
        self.open(position)

    def progress(self, trainer: "Trainer", name: str, loader: Loader, *, done: int = 0) -> Progress:
        """Return the progress bar of one pass over `loader`, of which `done` batches are done."""
        state, config = trainer.state, trainer.config
        total = loader.num_batches
        if name == "train":
            self._epoch_started = time.monotonic()
            if config.max_steps is not None:
                total = min(total, max(config.max_steps - state.step + state.batch, 0))

        def seconds_after(seconds_a_batch: float) -> float | None:
            self._seconds_a_batch[name] = seconds_a_batch  # kept: the other pass counts with it
            return self._seconds_after_pass(trainer, name)

        return Progress(
            f"epoch {state.epoch + 1}/{config.epochs} {name:5}",
            total=total,
            done=done,
            num_images=loader.batch_size,
            enabled=distributed.is_main(),
            seconds_after=seconds_after,
        )

    def _seconds_after_pass(self, trainer: "Trainer", name: str) -> float | None:
        """Return an estimate of how long the run takes after the current pass, or None if nothing says."""
        state, config, train = trainer.state, trainer.config, self._seconds_a_batch.get("train")
        if train is None:  # resumed at the end of an epoch
            return None
        val = self._seconds_a_batch.get("val", train / 3)  # a forward pass is about a third of a step
        num_batches = trainer.train_loader.num_batches
        steps = (config.epochs - state.epoch - 1) * num_batches
        if config.max_steps is not None:
            steps = max(min(steps, config.max_steps - (state.step - state.batch + num_batches)), 0)
        validations = math.ceil(steps / num_batches) + (name == "train")
        return steps * train + validations * trainer.val_loader.num_batches * val

    def images(self, images: Tensor) -> None:
        """Show the first batch (B, C, H, W) as the network receives it."""
        self.events.images("visual/first_batch", images, 0)

    def mixed(self) -> None:
        """Log, once, what the training accuracy of mixed images means."""
        if not self._is_mixed:
            log.info("mixed    a training image counts as right by the class that has the larger share of it")
        self._is_mixed = True

    def step(self, trainer: "Trainer", lr: float, clock: Clock, progress: Progress) -> None:
        """Log the scores since the last log: the one place in an epoch that waits for the device.

        Raises:
            DivergedError: a loss so far was not finite.
            StuckError: the loss stays at chance and divergence.on_stuck is stop.
            ValueError: too many images are bad.
        """
        state, sums = trainer.state, trainer.meter.sums
        trainer.watch.check(epoch=state.epoch + 1)
        scores = trainer.scores(distributed.all_reduce_sum(sums - self.sums_at_last_log))
        self.sums_at_last_log = sums.clone()
        progress.show(scores, lr=lr)
        self._estimate(trainer, progress)
        self.events.write(epoch=state.epoch + 1, step=state.step, lr=lr, train=scores)
        check_moving(trainer, scores.loss)
        figures = clock.lap(scores.num_images)
        bad_images = trainer.train_loader.bad_images
        if num_bad := len(bad_images.share()):
            bad_images.check()
            figures["data/bad_images"] = float(num_bad)
        if (used := most_memory_used(trainer.device)) is not None:
            figures["usage/gpu_memory_gib"] = used / 2**30
        self.events.scalars(state.step, figures)

    def glance(self, trainer: "Trainer", lr: float, progress: Progress) -> None:
        """Show this rank's scores since the last log, where the next log is far; they are written nowhere."""
        sums = trainer.meter.sums - self.sums_at_last_log
        progress.show(trainer.scores(sums), lr=lr)
        self._estimate(trainer, progress)

    def _estimate(self, trainer: "Trainer", progress: Progress) -> None:
        """Say once, after the first steps, how long the run takes."""
        seconds = progress.steady_seconds_a_batch()
        steps = progress.num_timed
        if self._estimated or seconds is None or steps < LEAST_STEPS or seconds * steps < LEAST_SECONDS:
            return
        if (left := progress.run_seconds(seconds)) is not None:
            self._estimated = True
            config, resumed = trainer.config, trainer.resumed_at is not None
            log.info(
                "%s",
                estimate_text(left, steps=steps, seconds_a_step=seconds, resumed=resumed, max_hours=config.max_hours),
            )

    def epoch(self, trainer: "Trainer", train: Scores, val: Scores | None, *, note: str | None, improved: bool) -> None:
        """Log the scores of the epoch that just ended, or of a validation within it, and the schedule's note."""
        state, lr, epochs = trainer.state, trainer.optimizer.param_groups[0]["lr"], trainer.config.epochs
        epoch = state.epoch + (state.batch > 0)
        name = f"epoch {epoch}/{epochs}"
        took = f"took {duration_text(time.monotonic() - self._epoch_started)}"
        if state.batch:
            log.info("%s step %d of %d", name, state.batch, trainer.train_loader.num_batches)
        else:
            log.info("%s train %s  lr %.3g", name, train, lr)
        raw = None if val is None else self.raw_val
        if val is not None:
            log.info("%s val   %s  %s%s", " " * len(name), val, took, "  best" if improved else "")
        if raw is not None:
            log.info("%s val of the raw weights %s", " " * len(name), raw)
        if note and not trainer.finished():  # below its epoch, whose lr is still the old one
            log.info("%s %s", " " * len(name), note)
        if state.batch:
            self.events.write(epoch=epoch, step=state.step, lr=lr, val=val, raw=raw)
            return
        self.events.write(epoch=epoch, step=state.step, lr=lr, train_epoch=train, val=val, raw=raw)
        self.events.filters(whole(first_convolution(trainer.model)), state.step)
        self.sums_at_last_log.zero_()

    def position(self) -> dict[str, int]:
        """Return the length of each file, with everything written out."""
        return self.events.position()

    def results(self, trainer: "Trainer") -> dict[str, Any]:
        """Return the results of the run, scores of its best epoch in percent, and close the files."""
        state, description = trainer.state, trainer.description
        ended = reason_to_end(trainer) if state.epoch < trainer.config.epochs and not trainer.out_of_steps() else None
        if ended:
            log.info("ends after epoch %d of %d: %s", state.epoch, trainer.config.epochs, ended)
        results = {
            **{f"val_{name}": state.best.get(name) for name in trainer.meter.metrics},
            "val_majority": 100 * float(trainer.val_loader.class_shares.max(initial=0)),
            "best_epoch": state.best_epoch,
            "epochs": state.epoch,
            "steps": state.step,
            **({"ended": ended} if ended else {}),
            "seconds": round(trainer.seconds(), 1),
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            **{key: description[key] for key in ("data", "data_root", "code")},
        }
        self.events.close(finished=True)
        return results
