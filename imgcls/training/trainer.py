"""The loop: what happens to a network between its first weights and its last."""

import logging
import math
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from imgcls import distributed
from imgcls.checkpoints import Checkpoints, copy_to_host
from imgcls.data.decoding import BadImageError
from imgcls.data.loading import Batch, Loader
from imgcls.metrics import Meter, Scores, scores_of
from imgcls.runs import Clock, Events, Interrupted, Progress, StopSignals, check_same_run
from imgcls.training.divergence import (
    DivergedError,
    DivergencePolicy,
    FiniteLossWatch,
    check_weights,
    explain_divergence,
    near_chance,
    report_stuck,
)
from imgcls.training.losses import ClassificationLoss
from imgcls.training.microbatch import OutOfMemory, explain_out_of_memory, largest_that_fits, out_of_memory_text
from imgcls.training.optim import WeightAverage, set_lr
from imgcls.training.schedules import Schedule
from imgcls.training.state import State
from imgcls.training.validation import validate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the loop itself is told; the parts come ready-made."""

    epochs: int
    num_classes: int
    seed: int
    device: torch.device
    autocast: torch.dtype | None
    max_steps: int | None = None
    microbatch: int | Literal["auto"] | None = None
    clip_grad_norm: float | None = None
    log_every_steps: int = 20
    best_metric: Literal["top1", "top5", "loss"] = "top1"
    on_divergence: DivergencePolicy = field(default_factory=DivergencePolicy)


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
        checkpoints: Checkpoints,
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
        self.checkpoints = checkpoints
        self.open_events = open_events
        self.description = description
        self.scaler = self.new_scaler()
        self.state = State()
        self.meter = Meter(settings.device)
        self.told = self.meter.sums.clone()  # the meter's sums at the last log
        self.watch = FiniteLossWatch(settings.device)
        self.started_at = time.monotonic()
        position = self.resume()
        self.train_model = wrap(model)
        self.events = open_events(position)

    def fit(self) -> dict[str, Any]:
        """Train to the end, from wherever the run stands, and return its results.

        Raises:
            DivergedError: the loss is not finite; the last good checkpoint is in place.
            Interrupted: a signal asked the run to stop; it is saved where it stands.
            OutOfMemory: a batch does not fit on the device.
            BadImageError: an image cannot be read; the run is saved where it stands.
            OSError: a checkpoint or a metric cannot be written.
        """
        with StopSignals() as self.signals, explain_out_of_memory(self.out_of_memory), self.checkpoints:
            self.begin()
            while not self.finished():
                try:
                    self.train_epoch()
                    train = self.meter.scores(self.settings.num_classes, over_ranks=True)
                    val = self.validate()
                    self.end_epoch(train, val)
                except DivergedError as error:
                    self.roll_back(error)
                except BadImageError:
                    self.save_alone()
                    raise
            return self.results()

    def train_epoch(self) -> None:
        """Train on what is left of this epoch."""
        state, settings, loader = self.state, self.settings, self.train_loader
        self.train_model.train()
        with (
            self.progress("train", loader.num_batches, state.batch, loader.batch_size) as progress,
            closing(loader.epoch(state.epoch, start=state.batch)) as batches,
        ):
            clock = Clock()
            for batch in clock.waits(batches):
                if self.out_of_steps():
                    break
                lr = set_lr(self.optimizer, self.lr_factor())
                loss, logits = self.train_step(batch)
                state.batch += 1
                state.step += 1
                self.meter.update(loss, logits, batch.labels)
                self.watch.update(loss, step=state.step)
                if state.step % settings.log_every_steps == 0:
                    self.log_step(lr, clock, progress)
                progress.advance()
                self.heed_signals(save=self.checkpoints.due)
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
        num_parts = math.ceil(len(images) / self.state.microbatch)
        losses, logits = [], []
        parts = zip(images.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True)
        amp = torch.autocast(settings.device.type, dtype=settings.autocast, enabled=settings.autocast is not None)
        for number, (part, part_targets) in enumerate(parts, start=1):
            share = len(part) / len(images)
            with gradients_synced(self.train_model, when=number == num_parts):
                with amp:
                    output = self.loss(self.train_model(part), part_targets)
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
        evaluated = self.model if self.average is None else self.average.model
        distributed.broadcast_buffers(self.model)
        distributed.broadcast_buffers(evaluated)
        with (
            self.progress("val", loader.num_batches, 0, loader.batch_size) as progress,
            closing(loader.epoch(0)) as batches,
        ):

            def after_batch(meter: Meter) -> None:
                if progress.done % settings.log_every_steps == 0:
                    progress.show(meter.scores(settings.num_classes))
                progress.advance()
                # A rank may have a batch more than another; they agree after those that all have.
                if progress.done <= loader.num_images // loader.batch_size:
                    self.heed_signals()

            scores = validate(
                evaluated,
                batches,
                prepare=self.prepare,
                num_classes=settings.num_classes,
                device=settings.device,
                autocast=settings.autocast,
                microbatch=self.state.microbatch,
                after_batch=after_batch,
            )
        loader.bad_images.share()
        loader.bad_images.check()
        return scores

    def new_scaler(self) -> torch.amp.GradScaler:
        """Return what scales the loss so that fp16 gradients do not vanish; with another precision it does nothing."""
        settings = self.settings
        return torch.amp.GradScaler(settings.device.type, enabled=settings.autocast == torch.float16)

    def lr_factor(self) -> float:
        """Return what the optimizer's lr is multiplied by in the coming step.

        Schedules count time in epochs; it is taken in the middle of the step. At its start a warm-up's first lr would
        be 0, at its end a drop would come a step early.
        """
        now = self.state.epoch + (self.state.batch + 0.5) / self.train_loader.num_batches
        penalty = self.settings.on_divergence.lr_factor**self.state.rollbacks
        return penalty * self.schedule.factor(now, epochs=self.settings.epochs)

    def out_of_steps(self) -> bool:
        return self.settings.max_steps is not None and self.state.step >= self.settings.max_steps

    def finished(self) -> bool:
        """Tell whether all is trained and, after the last step, validated."""
        return self.state.epoch >= self.settings.epochs or (self.out_of_steps() and self.state.batch == 0)

    def progress(self, name: str, total: int, done: int, num_images: int) -> Progress:
        label = f"epoch {self.state.epoch + 1}/{self.settings.epochs} {name:5}"
        return Progress(label, total=total, done=done, num_images=num_images, enabled=distributed.is_main())

    def log_step(self, lr: float, clock: Clock, progress: Progress) -> None:
        """Tell how training goes since the last log: the one place in an epoch that waits for the device."""
        self.check_finite()
        sums = distributed.all_reduce_sum(self.meter.sums - self.told)
        self.told = self.meter.sums.clone()
        scores = scores_of(sums, self.settings.num_classes)
        progress.show(scores)
        self.events.write(epoch=self.state.epoch + 1, step=self.state.step, lr=lr, train=scores)
        self.check_moving(scores.loss)
        timing = clock.lap(scores.num_images)
        bad = self.train_loader.bad_images
        if num_bad := len(bad.share()):
            bad.check()
            timing["data/bad_images"] = float(num_bad)
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
            **{key: self.description[key] for key in ("data", "data_root", "code")},
        }
        self.events.hparams(self.description["config"], results)
        self.events.close()
        return results

    def seconds(self) -> float:
        """Return how long the run has trained and validated, over all the times it was taken up."""
        return self.state.seconds + time.monotonic() - self.started_at

    def check_finite(self) -> None:
        """Wait for the device, and raise DivergedError if any loss so far was not finite."""
        self.watch.check(epoch=self.state.epoch + 1)

    def check_moving(self, loss: float) -> None:
        """Warn of a loss that stays where guessing is, or stop for it."""
        state, policy, log_every = self.state, self.settings.on_divergence, self.settings.log_every_steps
        chance = self.loss.at_chance(self.settings.num_classes)
        if not near_chance(loss, chance):
            state.moving_step = state.step
        steps = state.step - state.moving_step
        limit = policy.stuck_after(num_batches=self.train_loader.num_batches, log_every_steps=log_every)
        if policy.on_stuck != "ignore" and steps - log_every < limit <= steps:
            report_stuck(policy, loss=loss, chance=chance, steps=steps)

    def end_epoch(self, train: Scores, val: Scores) -> None:
        """Tell and save what an epoch gave."""
        state = self.state
        if not math.isfinite(val.loss):
            raise DivergedError(f"the validation loss of epoch {state.epoch + 1} is not finite")
        if note := self.schedule.epoch_ended(val.top1):
            log.info(note)
        state.epoch += 1
        state.batch = 0
        lr = self.optimizer.param_groups[0]["lr"]
        if improved := state.better(val, self.settings.best_metric):
            state.best_top1, state.best_top5, state.best_loss = val.top1, val.top5, val.loss
            state.best_epoch = state.epoch
        log.info("epoch %d/%d  train %s   val %s%s", state.epoch, self.settings.epochs, train, val, "  best" * improved)
        self.events.write(epoch=state.epoch, step=state.step, lr=lr, train=train, val=val)
        self.events.filters(self.model, state.step)
        self.meter = Meter(self.settings.device)
        self.told = self.meter.sums.clone()
        self.save(best=val if improved else None, epoch=state.epoch)

    def heed_signals(self, *, save: bool = False) -> None:
        """Save and stop where a signal asks for it; only save, where any rank wants that. All ranks alike."""
        asked = distributed.agree(2 * self.signals.received + save)
        number = asked // 2
        if number:
            log.info("%s: saving after step %d", signal.Signals(number).name, self.state.step)
        if asked:
            self.save()
        if number:
            self.checkpoints.settle()
            step = self.state.step
            raise Interrupted(
                number, f"saved after step {step}; the same command, less overwrite=true, goes on from there"
            )

    def save(self, *, best: Scores | None = None, epoch: int | None = None) -> None:
        """Have last.pt written in the background, and best.pt if the epoch that just ended is the `best`."""
        self.check_finite()
        check_weights(self.model, step=self.state.step)
        snapshot = self.snapshot()
        weights = None
        if best is not None:
            evaluated = snapshot["model"] if self.average is None else snapshot["average"]
            scores = {"top1": best.top1, "top5": best.top5, "loss": best.loss}
            weights = self.description | {"model": evaluated, "epoch": self.state.epoch, "val": scores}
        self.checkpoints.save(snapshot, best=weights, epoch=epoch)

    def save_alone(self) -> None:
        """Save before the run ends by a fault of this rank; not with others, which wait for its next step."""
        if distributed.world_size() == 1:
            self.save()

    def snapshot(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on, as tensors and plain values."""
        return self.description | {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "state": asdict(self.state) | {"seconds": self.seconds()},
            "meters": distributed_meters(self.meter, self.told),
            "events": self.events.position(),
            "bad_images": self.train_loader.bad_images.share(),
        }

    def load(self, snapshot: dict[str, Any]) -> None:
        """Put the run back to where it was when `snapshot` was taken."""
        self.model.load_state_dict(snapshot["model"])
        if self.average is not None:
            self.average.model.load_state_dict(snapshot["average"])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        self.schedule.load_state_dict(snapshot["schedule"])
        self.scaler = self.new_scaler()  # one that was left in the middle of a step refuses the next
        self.scaler.load_state_dict(snapshot["scaler"])
        for name, value in snapshot["state"].items():
            setattr(self.state, name, value)
        self.train_loader.bad_images.add(snapshot["bad_images"])
        self.started_at = time.monotonic()
        self.watch.reset()
        if distributed.is_main():
            self.meter.sums.copy_(snapshot["meters"]["sums"])
            self.told.copy_(snapshot["meters"]["told"])
        else:
            self.meter.sums.zero_()
            self.told.zero_()

    def resume(self) -> dict[str, int] | None:
        """Take up the run that is saved in the directory, if one is; return how far its event files go."""
        saved = self.checkpoints.latest()
        if saved is None:
            return None
        run_dir, key = self.checkpoints.run_dir, "precision"
        check_same_run(run_dir, "data set", saved["data"], self.description["data"])
        check_same_run(run_dir, key, {key: saved[key]}, {key: self.description[key]})
        self.load(saved)
        log.info("going on after step %d, epoch %d", self.state.step, self.state.epoch)
        return saved["events"]

    def begin(self) -> None:
        """Do what comes before the first step of a run, or of a resumed one."""
        local_size = self.train_loader.local_size
        if self.state.microbatch == 0:
            wanted = self.settings.microbatch
            self.state.microbatch = min(local_size, wanted) if isinstance(wanted, int) else local_size
            if wanted == "auto":
                self.fit_microbatch()
        if self.settings.on_divergence.rollback and not self.checkpoints.keeps(self.state.epoch):
            self.save(epoch=self.state.epoch)

    def fit_microbatch(self) -> None:
        """Find how many images at a time the device's memory takes: all, or half of them, or a quarter, ..."""
        fits = self.largest_microbatch()
        if fits is None:
            raise OutOfMemory(self.memory_text(fits))
        self.state.microbatch = fits
        log.info("microbatch=auto: %d images at a time fit on %s", fits, self.settings.device)

    def largest_microbatch(self) -> int | None:
        """Try steps on one batch, without and with the optimizer's state, and put everything back as it was."""
        self.optimizer.zero_grad(set_to_none=True)
        before, train_model = copy_to_host(self.snapshot()), self.train_model
        # Ranks run out one at a time, and must not wait for each other in a backward pass.
        self.train_model = self.model if distributed.world_size() > 1 else train_model
        self.train_model.train()

        def attempt(microbatch: int) -> None:
            self.state.microbatch = microbatch
            with closing(self.train_loader.epoch(0)) as batches:
                batch = next(batches)
                for step in (1, 2):
                    self.state.step = step
                    self.train_step(batch)

        def put_back() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            self.load(before)

        put_back()  # what ran out before may have left a step half done
        fits = largest_that_fits(attempt, put_back, most=self.train_loader.local_size)
        self.train_model = train_model
        return -distributed.agree(-(fits or 0)) or None

    def out_of_memory(self) -> str:
        """Say what did not fit, and what would: tried out, unless other ranks wait for this one in vain."""
        if distributed.world_size() > 1:
            return self.memory_text(None, tried=False)
        return self.memory_text(self.largest_microbatch())

    def memory_text(self, fits: int | None, *, tried: bool = True) -> str:
        loader, microbatch = self.train_loader, self.state.microbatch
        return out_of_memory_text(
            self.settings.device,
            batch_size=loader.batch_size,
            local_size=loader.local_size,
            microbatch=microbatch,
            fits=fits,
            tried=tried,
        )

    def roll_back(self, error: DivergedError) -> None:
        """Go back to the start of the epoch with a smaller lr; or end the run, where that is not to be.

        Not to the newest checkpoint: when that was written is chance, and so would be what comes of the run.
        """
        policy = self.settings.on_divergence
        if not policy.rollback or self.state.rollbacks >= policy.max_rollbacks:
            self.checkpoints.settle()
            raise explain_divergence(error, policy, saved=self.checkpoints.latest() is not None) from error
        self.checkpoints.settle()
        rollbacks, saved = self.state.rollbacks + 1, self.checkpoints.before_epoch(self.state.epoch)
        assert saved is not None
        self.load(saved)
        self.state.rollbacks = rollbacks
        # Saved before the event files are cut: a kill in between leaves a last.pt that knows how far they are good.
        self.checkpoints.save(self.snapshot() | {"events": saved["events"]})
        self.checkpoints.settle()
        self.checkpoints.forget_previous()
        self.events.close()
        self.events = self.open_events(saved["events"])
        log.warning(
            "%s: going back to step %d with lr x %g (%d of %d times)",
            error,
            self.state.step,
            policy.lr_factor**rollbacks,
            rollbacks,
            policy.max_rollbacks,
        )


def distributed_meters(meter: Meter, told: Tensor) -> dict[str, Tensor]:
    """Return a meter's sums over all ranks; a resumed run gives them to its main rank."""
    both = distributed.all_reduce_sum(torch.stack([meter.sums, told]))
    return {"sums": both[0], "told": both[1]}


def gradients_synced(model: nn.Module, *, when: bool) -> Any:
    """Let ranks exchange gradients `when` a part is the last of a step; a context for its forward and backward pass."""
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, DistributedDataParallel) and not when:
        return inner.no_sync()
    return torch.enable_grad()
