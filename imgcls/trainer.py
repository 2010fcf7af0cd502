"""The loop: what happens to a network between its first weights and its last."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from imgcls import checkpoint, distributed
from imgcls.data.loader import Batch, Loader
from imgcls.evaluation import evaluate
from imgcls.events import Events, Progress
from imgcls.losses import ClassificationLoss
from imgcls.metrics import Meter, Scores, scores_of
from imgcls.optim import Schedule, WeightAverage, set_lr
from imgcls.runs import BEST, LAST, PREVIOUS
from imgcls.signals import Interrupted, StopSignals

log = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """The loss is no longer a number: its text names the step and what to try."""

    exit_code = 1


@dataclass(frozen=True)
class Settings:
    """What the loop itself is told; the parts come ready-made."""

    epochs: int
    num_classes: int
    seed: int
    device: torch.device
    autocast: torch.dtype | None
    max_steps: int | None = None
    microbatch: int | None = None
    clip_grad_norm: float | None = None
    log_every_steps: int = 20
    checkpoint_every_minutes: float = 10.0


@dataclass
class State:
    """Where a run is: `batch` optimizer steps into epoch `epoch` (the first is 0), `step` since the start."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_top1: float = -math.inf
    best_top5: float | None = None
    best_loss: float = math.inf
    seconds: float = 0.0


class Trainer:
    """Trains `model` and keeps what a resumed run needs to go on as if it had never stopped.

    Args:
        model: the bare network, on its device; it is what is evaluated and saved.
        wrap: makes of it what trains (compiled, distributed), sharing its weights.
        average: of the weights; where there is one, it is validated and saved as best.
        augment: a batch and its epoch to images (B, C, H, W) and targets, (B,) or (B, K).
        prepare: uint8 images (B, H, W, C) to what the network takes, without augmentation.
        description: of the run, saved in every checkpoint: config, classes, input, code version.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        *,
        wrap: Callable[[nn.Module], nn.Module],
        average: WeightAverage | None,
        loss: ClassificationLoss,
        optimizer: Optimizer,
        schedule: Schedule,
        augment: Callable[[Batch, int], tuple[Tensor, Tensor]],
        prepare: Callable[[Tensor], Tensor],
        train_loader: Loader,
        val_loader: Loader,
        run_dir: Path,
        open_events: Callable[[dict[str, int] | None], Events],
        description: dict[str, Any],
    ) -> None:
        self.model = model
        self.settings = settings
        self.average = average
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.augment = augment
        self.prepare = prepare
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.run_dir = run_dir
        self.description = description
        self.scaler = torch.amp.GradScaler(settings.device.type, enabled=settings.autocast == torch.float16)
        self.state = State()
        self.meter = Meter(settings.device)
        self.told = self.meter.sums.clone()  # the meter's sums at the last log
        self.bad_step = torch.zeros((), dtype=torch.int64, device=settings.device)  # the first without a finite loss
        position = self.restore()
        self.train_model = wrap(model)
        self.events = open_events(position)
        self.started_at = self.saved_at = time.monotonic()

    def fit(self) -> dict[str, Any]:
        """Train to the end, from wherever the run stands, and return its results.

        Raises:
            DivergedError: the loss is not finite; the last good checkpoint is in place.
            Interrupted: a signal asked the run to stop; it is saved where it stands.
        """
        state, settings = self.state, self.settings
        with StopSignals() as self.signals:
            while state.epoch < settings.epochs:
                self.train_epoch()
                train = self.meter.scores(settings.num_classes, over_ranks=True)
                val = self.validate()
                if note := self.schedule.epoch_ended(val.top1):
                    log.info(note)
                self.end_epoch(train, val)
                if settings.max_steps is not None and state.step >= settings.max_steps:
                    break
        return self.results()

    def train_epoch(self) -> None:
        """Train on what is left of this epoch."""
        state, settings, num_batches = self.state, self.settings, self.train_loader.num_batches
        self.train_model.train()
        images_per_step = self.train_loader.batch_size
        with self.progress("train", num_batches, state.batch, images_per_step) as progress:
            clock = Clock()
            for batch in clock.waits(self.train_loader.epoch(state.epoch, start=state.batch)):
                if settings.max_steps is not None and state.step >= settings.max_steps:
                    break
                lr = set_lr(self.optimizer, self.schedule.factor(self.now(), epochs=settings.epochs))
                loss, logits = self.train_step(batch)
                state.batch += 1
                state.step += 1
                self.meter.update(loss, logits, batch.labels)
                self.bad_step += state.step * ((self.bad_step == 0) & ~loss.isfinite())
                if state.step % settings.log_every_steps == 0:
                    self.log_step(lr, clock, progress)
                progress.advance()
                self.save_if_due()
        self.check_finite()

    def train_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one optimizer step on a batch, in equal parts where it exceeds the microbatch.

        Returns:
            The mean loss (scalar) and the logits (B, K), detached, on the device.
        """
        settings = self.settings
        # Dropout's draws are a function of the step too, so that a resumed run draws what the unbroken one drew.
        torch.manual_seed((settings.seed * 1_000_003 + self.state.step) * 4096 + distributed.rank())
        images, targets = self.augment(batch, self.state.epoch)
        if self.state.step == 0:
            self.events.images("train/images", images, 0)
        num_parts = math.ceil(len(images) / (settings.microbatch or len(images)))
        losses, logits = [], []
        for part, part_targets in zip(images.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True):
            with torch.autocast(settings.device.type, dtype=settings.autocast, enabled=settings.autocast is not None):
                output = self.loss(self.train_model(part), part_targets)
            share = len(part) / len(images)
            last = len(losses) == num_parts - 1
            with gradients_synced(self.train_model, when=last):
                self.scaler.scale(output.loss * share).backward()
            losses.append(output.loss.detach() * share)
            logits.append(output.logits.detach())
        if settings.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model, step=self.state.step + 1)
        return torch.stack(losses).sum(), torch.cat(logits)

    def validate(self) -> Scores:
        """Score the network, or the average of its weights, on the validation images."""
        settings, loader = self.settings, self.val_loader
        distributed.broadcast_buffers(self.model)
        with self.progress("val", loader.num_batches, 0, loader.batch_size) as progress:

            def after_batch(meter: Meter) -> None:
                if progress.done % settings.log_every_steps == 0:
                    progress.show(meter.scores(settings.num_classes))
                progress.advance()
                self.stop_if_asked()

            return evaluate(
                self.model if self.average is None else self.average.model,
                loader.epoch(0),
                prepare=self.prepare,
                num_classes=settings.num_classes,
                device=settings.device,
                autocast=settings.autocast,
                after_batch=after_batch,
            )

    def now(self) -> float:
        """Return the time in epochs, as schedules count it: the middle of the coming step.

        At its start a warm-up's first lr would be 0, at its end a drop would come a step early.
        """
        return self.state.epoch + (self.state.batch + 0.5) / self.train_loader.num_batches

    def progress(self, name: str, total: int, done: int, num_images: int) -> Progress:
        label = f"epoch {self.state.epoch + 1}/{self.settings.epochs} {name:5}"
        return Progress(label, total=total, done=done, num_images=num_images, enabled=distributed.is_main())

    def log_step(self, lr: float, clock: "Clock", progress: Progress) -> None:
        """Tell how training goes since the last log: the one place in an epoch that waits for the device."""
        self.check_finite()
        sums = distributed.all_reduce_sum(self.meter.sums - self.told)
        self.told = self.meter.sums.clone()
        scores = scores_of(sums, self.settings.num_classes)
        progress.show(scores)
        self.events.write(epoch=self.state.epoch + 1, step=self.state.step, lr=lr, train=scores)
        timing = clock.lap(scores.num_images)
        if self.settings.device.type == "cuda":
            timing["system/gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.settings.device) / 2**30
        self.events.scalars(self.state.step, timing)

    def results(self) -> dict[str, Any]:
        """Tell what the run gave: the scores of its best epoch, in percent, and what they took."""
        state = self.state
        results = {
            "val_top1": state.best_top1,
            "val_top5": state.best_top5,
            "val_loss": state.best_loss,
            "best_epoch": state.best_epoch,
            "epochs": state.epoch,
            "steps": state.step,
            "seconds": round(self.seconds(), 1),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "code": self.description["code"],
        }
        self.events.hparams(self.description["config"], results)
        self.events.close()
        return results

    def seconds(self) -> float:
        """Return how long the run has trained and validated, over all the times it was taken up."""
        return self.state.seconds + time.monotonic() - self.started_at

    def check_finite(self) -> None:
        """Raise DivergedError if any loss so far was not finite."""
        if step := distributed.agree(int(self.bad_step)):
            raise DivergedError(
                f"the loss at step {step} (epoch {self.state.epoch + 1}) is not finite; the last checkpoint is from "
                "before it. Try a lower optimizer.lr, schedule.warmup_epochs, clip_grad_norm=1 or precision=fp32"
            )

    def end_epoch(self, train: Scores, val: Scores) -> None:
        """Tell and save what an epoch gave."""
        state = self.state
        state.epoch += 1
        state.batch = 0
        lr = self.optimizer.param_groups[0]["lr"]
        if improved := val.top1 > state.best_top1:
            state.best_top1, state.best_top5, state.best_loss = val.top1, val.top5, val.loss
            state.best_epoch = state.epoch
        log.info("epoch %d/%d  train %s   val %s%s", state.epoch, self.settings.epochs, train, val, "  best" * improved)
        self.events.write(epoch=state.epoch, step=state.step, lr=lr, train=train, val=val)
        self.events.filters(self.model, state.step)
        self.meter = Meter(self.settings.device)
        self.told = self.meter.sums.clone()
        self.save()
        if improved and distributed.is_main():
            evaluated = self.model if self.average is None else self.average.model
            scores = {"top1": val.top1, "top5": val.top5, "loss": val.loss}
            content = self.description | {"model": evaluated.state_dict(), "epoch": state.epoch, "val": scores}
            checkpoint.save(content, self.run_dir / BEST)

    def save_if_due(self) -> None:
        """Save between two steps when a signal asks the run to stop, or the last save is long ago."""
        self.stop_if_asked()
        due = time.monotonic() - self.saved_at > 60 * self.settings.checkpoint_every_minutes
        if distributed.agree(int(due)):
            self.save()

    def stop_if_asked(self) -> None:
        if signal := distributed.agree(self.signals.received):
            self.save()
            raise Interrupted(signal, f"saved after step {self.state.step}; the same command goes on from there")

    def save(self) -> None:
        """Write last.pt; the one before it stays as previous.pt."""
        self.check_finite()
        self.saved_at = time.monotonic()
        meters = distributed_meters(self.meter, self.told)
        if distributed.is_main():
            checkpoint.save(self.snapshot(meters), self.run_dir / LAST, keep_previous=self.run_dir / PREVIOUS)

    def snapshot(self, meters: dict[str, Tensor]) -> dict[str, Any]:
        """Return everything that the rest of the run depends on, as tensors and plain values."""
        return self.description | {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "state": asdict(self.state) | {"seconds": self.seconds()},
            "meters": meters,
            "events": self.events.position(),
        }

    def restore(self) -> dict[str, int] | None:
        """Take up the run that is saved in the directory, if one is; return how far its event files go."""
        saved = checkpoint.load_latest([self.run_dir / LAST, self.run_dir / PREVIOUS])
        if saved is None:
            return None
        self.model.load_state_dict(saved["model"])
        if self.average is not None:
            self.average.model.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        self.state = State(**saved["state"])
        if distributed.is_main():
            self.meter.sums.copy_(saved["meters"]["sums"])
            self.told.copy_(saved["meters"]["told"])
            log.info("going on after step %d, epoch %d", self.state.step, self.state.epoch)
        return saved["events"]


def distributed_meters(meter: Meter, told: Tensor) -> dict[str, Tensor]:
    """Return a meter's sums over all ranks; a resumed run gives them to its main rank."""
    both = distributed.all_reduce_sum(torch.stack([meter.sums, told]))
    return {"sums": both[0], "told": both[1]}


def gradients_synced(model: nn.Module, *, when: bool) -> Any:
    """Let ranks exchange gradients in the backward pass `when` it is the last of a step; a context."""
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, DistributedDataParallel) and not when:
        return inner.no_sync()
    return torch.enable_grad()


class Clock:
    """Where the time goes: images per second, and the share of it spent waiting for data."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.waited = 0.0

    def waits(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, counting the time until each one comes."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def lap(self, num_images: int) -> dict[str, float]:
        """Return the figures since the last lap, in which `num_images` were trained on."""
        now = time.monotonic()
        seconds = max(now - self.started, 1e-9)
        figures = {
            "train/images_per_second": num_images / seconds,
            "train/data_wait_percent": 100 * min(1.0, self.waited / seconds),
        }
        self.started, self.waited = now, 0.0
        return figures
