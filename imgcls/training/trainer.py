"""The training loop, from a network's first weights to its last."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from imgcls import distributed
from imgcls.checkpoints import CheckpointError, Checkpoints
from imgcls.config import NOT_ON_CONSOLE, Config
from imgcls.data.decoding import BadImageError
from imgcls.data.loading import Batch, Loader
from imgcls.device import float64_device, is_out_of_memory, seed_generators
from imgcls.errors import exit_code_of
from imgcls.metrics import Meter, Scores, metrics_of, scores_of
from imgcls.runs import Clock, StopSignals
from imgcls.training.agreement import Agreement
from imgcls.training.bad_files import remember_bad_file
from imgcls.training.compiling import kept_logits, uncompiled
from imgcls.training.divergence import DivergedError, FiniteLossWatch, roll_back
from imgcls.training.freezing import Freezing
from imgcls.training.host_memory import HostMemory
from imgcls.training.last_step import LastStep
from imgcls.training.log import RunLog
from imgcls.training.losses import ClassificationLoss
from imgcls.training.microbatch import explain_out_of_memory, memory_advice, set_microbatch
from imgcls.training.optim import WeightAverage, fill_momenta, set_lr
from imgcls.training.out_of_memory import finish_step, save_after_out_of_memory, smaller_part
from imgcls.training.saving import handle_stop_signal, save, save_single_rank, start_together
from imgcls.training.schedules import Schedule
from imgcls.training.sharding import gathered
from imgcls.training.state import State
from imgcls.training.stopping import epoch_is_over, reason_to_end, validation_due
from imgcls.training.validation import validate

log = logging.getLogger(__name__)
CTRL_C = "Ctrl-C: the run ends after this step and is saved; a second one ends it at once, unsaved"
Hook = Callable[["Trainer"], None]


@dataclass(eq=False, kw_only=True)
class Trainer:
    """Train `model` and validate it every so often; save what a resumed run needs to give the same bits.

    Args:
        config: epochs, seed, microbatch, clip_grad_norm and whatever else the loop reads.
        autocast: dtype of mixed precision, or None for float32.
        model: the bare network, on its device; it is evaluated and saved.
        train_model: what trains, compiled or distributed; it shares the weights of `model`.
        wrap: makes it from `model`, again where frozen layers begin to learn.
        freezing: the layers that do not learn, and how long.
        average: of the weights; if given, it is validated and saved as best.
        new_scaler: makes the scaler of the loss, which keeps fp16 gradients from vanishing.
        augment: a batch and its epoch to images (B, C, H, W) and targets, (B,) or (B, K).
        prepare: uint8 images (B, H, W, C) to the network's input, without augmentation.
        description: saved in every checkpoint: config, classes, data, precision, code version.
        host: what a step takes of the host's memory, where that is known.
        before_step, after_step, before_validation: hooks that outside code may add, called with this trainer.
    """

    config: Config
    device: torch.device
    autocast: torch.dtype | None
    num_classes: int
    model: nn.Module
    train_model: nn.Module
    wrap: Callable[[nn.Module], nn.Module]
    freezing: Freezing
    average: WeightAverage | None
    loss: ClassificationLoss
    optimizer: Optimizer
    schedule: Schedule
    new_scaler: Callable[[], torch.amp.GradScaler]
    augment: Callable[[Batch, int], tuple[Tensor, Tensor]]
    prepare: Callable[[Tensor], Tensor]
    train_loader: Loader
    val_loader: Loader
    checkpoints: Checkpoints
    run_log: RunLog
    description: dict[str, Any]
    host: HostMemory | None = None
    before_step: list[Hook] = field(default_factory=list)
    after_step: list[Hook] = field(default_factory=list)
    before_validation: list[Hook] = field(default_factory=list)

    def fit(self) -> dict[str, Any]:
        """Train from the current state to the end and return the results.

        Raises:
            DivergedError: the loss is not finite; the last good checkpoint is kept.
            Interrupted: a signal stopped the run; it is saved after its last step.
            OutOfMemory: a batch does not fit on the device; the run is saved after a whole step where that is possible.
            BadImageError: an image cannot be read; the run is saved after its last step.
            OSError: a checkpoint or a metric cannot be written.
        """
        with self.signals, self.run_log, explain_out_of_memory(lambda: memory_advice(self)), self.checkpoints:
            self.begin()
            while not self.finished():
                try:
                    train = self.train_epoch()
                    val = self.validate() if validation_due(self) else None
                    self.end_epoch(train, val)
                except DivergedError as error:
                    roll_back(self, error)
                except BadImageError as error:
                    remember_bad_file(self, error)
                    save_single_rank(self)
                    raise
                except Exception as error:
                    if is_out_of_memory(error):
                        save_after_out_of_memory(self, error)
                    self.explain_failed_resume(error)
                    raise
            self.agreement.answer()  # a signal after the last step has nothing to stop
            return self.run_log.results(self)

    def explain_failed_resume(self, error: Exception) -> None:
        """Name the checkpoint as a possible cause of an error in the first step after it that nothing else explains.

        Raises:
            CheckpointError: instead of the error, whose traceback goes to the run's log.
        """
        known = exit_code_of(error) is not None or is_out_of_memory(error) or isinstance(error, OSError)
        if self.resumed_at == self.state.step and not known and distributed.world_size() == 1:
            log.error("the first step after the checkpoint failed", exc_info=error, extra=NOT_ON_CONSOLE)
            raise CheckpointError(
                f"{self.checkpoints.run_dir}: the first step after the checkpoint failed ({type(error).__name__}: "
                f"{error}); the run's log has the traceback. If the checkpoint was edited, or is of another version of "
                "torch, that may be the cause: remove it to resume from the one before"
            ) from error

    def train_epoch(self) -> Scores:
        """Train until the next validation or the end of the epoch; return the epoch's scores so far over all ranks."""
        state, loader = self.state, self.train_loader
        self.train_mode()
        with (
            self.run_log.progress(self, "train", loader, done=state.batch) as progress,
            closing(loader.epoch(state.epoch, start=state.batch)) as batches,
        ):
            clock = Clock()
            for batch in clock.waits(start_together(self, batches)):
                if self.out_of_steps() or validation_due(self):
                    break
                _call(self.before_step, self)
                lr = set_lr(self.optimizer, self.lr_factor())
                loss, logits, labels = self.train_step(batch)
                state.batch += 1
                state.step += 1
                self.meter.update(loss, logits, labels)
                self.watch.update(loss, step=state.step)
                if state.step % self.config.log_every_steps == 0:
                    self.run_log.step(self, lr, clock, progress)
                elif progress.due:
                    self.run_log.glance(self, lr, progress)
                self.last_step.reach()
                progress.advance()
                _call(self.after_step, self)
                handle_stop_signal(self)
        self.watch.check(epoch=state.epoch + 1)
        return self.scores(distributed.all_reduce_sum(self.meter.sums.clone()))

    def train_step(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Take one optimizer step on a batch, in equal parts if it exceeds the microbatch.

        Returns:
            The mean loss (scalar), the logits (B, K), detached, and the labels (B,) that they are scored by: of an
            image that was mixed with another, the class of the larger share.
        """
        self.seed_step()
        images, targets = self.augment(batch, self.state.epoch)
        if self.state.step == 0:
            self.run_log.images(images)
        labels = batch.labels
        if targets.dim() == 2:
            labels = targets.argmax(dim=1)
            self.run_log.mixed()
        num_parts = math.ceil(len(images) / self.state.microbatch)
        self.last_step.move_buffers()
        try:
            loss, logits = self.gradients(images, targets, num_parts)
        except RuntimeError as error:
            loss, logits = finish_step(self, error, images, targets, num_parts)
        if self.config.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        self.last_step.leave()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model, step=self.state.step + 1)
        return loss, logits, labels

    def gradients(self, images: Tensor, targets: Tensor, num_parts: int) -> tuple[Tensor, Tensor]:
        """Add up a batch's gradients in so many equal parts; return its mean loss (scalar) and its logits (B, K)."""
        losses, logits = [], []
        parts = [(images, targets)]
        if num_parts > 1:
            parts = list(zip(images.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True))
        for number, (part, part_targets) in enumerate(parts, start=1):
            is_last = number == num_parts
            with gradients_synced(self.train_model, when=is_last):
                with self.amp():
                    output = self.loss(self.train_model(part), part_targets)
                loss = output.loss if num_parts == 1 else output.loss * (len(part) / len(images))
                if is_last:
                    self.last_step.exchange()
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
            logits.append(kept_logits(output.logits.detach(), self.config))
        loss = losses[0] if num_parts == 1 else torch.stack(losses).sum()
        return loss, logits[0] if num_parts == 1 else torch.cat(logits)

    def seed_step(self) -> None:
        """Make dropout's draws a function of the step, so that a resumed run draws the same numbers."""
        seed_generators((self.config.seed * 1_000_003 + self.state.step) * 4096 + distributed.rank(), self.device)

    def validate(self) -> Scores:
        """Score the network on the validation images, and the average of its weights, which counts if there is one."""
        _call(self.before_validation, self)
        distributed.broadcast_buffers(self.model)
        if self.average is None:
            return self.score(self.model, "val")
        distributed.broadcast_buffers(self.average.model)
        self.run_log.raw_val = self.score(self.model, "raw")
        return self.score(self.average.model, "val")

    def score(self, network: nn.Module, name: str) -> Scores:
        """Return the scores of `network` on the validation images, with `name` beside the progress bar."""
        loader = self.val_loader
        with (
            self.run_log.progress(self, name, loader) as progress,
            closing(loader.epoch(0)) as batches,
            uncompiled(self.config),
            gathered(network),
        ):

            def after_batch(meter: Meter) -> None:
                if progress.due or progress.done % self.config.log_every_steps == 0:
                    progress.show(meter.scores(self.num_classes))
                progress.advance()
                # One rank may have a batch more than another; they agree only after batches that all ranks have.
                if progress.done <= loader.num_images // loader.batch_size:
                    handle_stop_signal(self, save_if_due=False)

            scores = validate(
                network,
                batches,
                prepare=self.prepare,
                num_classes=self.num_classes,
                metrics=self.meter.metrics,
                device=self.device,
                autocast=self.autocast,
                microbatch=self.state.microbatch,
                out_of_memory=lambda error, size: smaller_part(self, error, size),
                after_batch=after_batch,
            )
        loader.bad_images.share()
        loader.bad_images.check()
        return scores

    def __post_init__(self) -> None:
        self.state = State()
        self.scaler = self.new_scaler()
        self.meter = self.new_meter()
        self.watch = FiniteLossWatch()
        self.last_step = LastStep(self.model)
        self.signals = StopSignals(max_hours=self.config.max_hours, notice=CTRL_C if distributed.is_main() else "")
        self.resumed_at: int | None = None  # the step of the checkpoint that the run was resumed from
        self.agreement = Agreement()
        self.failure: str | None = None  # why this rank ends all ranks, when they have saved
        # A hook on any rank may set it, after a step: one process saves before the next step, several after it.
        self.save_requested = False
        self.started_at = time.monotonic()

    def new_meter(self) -> Meter:
        return Meter(float64_device(self.device), metrics=metrics_of(self.config.topk))

    def scores(self, sums: Tensor) -> Scores:
        """Return the means of sums that this run's meter counted."""
        return scores_of(sums, self.num_classes, self.meter.metrics)

    def begin(self) -> None:
        """Prepare the first step of a new or resumed run."""
        if self.state.microbatch == 0:
            set_microbatch(self)
        if self.config.on_divergence == "rollback" and not self.checkpoints.keeps(self.state.epoch):
            save(self, epoch=self.state.epoch)

    def train_mode(self) -> None:
        """Put the network into training mode, but for the layers that are frozen in this epoch."""
        if self.freezing.apply(self.state.epoch):
            self.train_model = self.wrap(self.model)
        fill_momenta(self.optimizer, self.freezing.parameters)
        self.train_model.train()
        self.freezing.keep_in_eval()

    def end_epoch(self, train: Scores, val: Scores | None) -> None:
        """Log and save the scores of an epoch, or of a part of it that ends with a validation."""
        state, note, over = self.state, None, epoch_is_over(self)
        self.last_step.leave()
        if val is not None:
            if not math.isfinite(val.loss):
                raise DivergedError(f"the validation loss of epoch {state.epoch + 1} is not finite")
            state.validated_step = state.step
        if over:
            note = self.schedule.epoch_ended(None if val is None else val.top1)
            state.epoch += 1
            state.batch = 0
            self.meter = self.new_meter()
        improved = val is not None and state.improve(val, self.config.checkpoint.best_metric)
        self.run_log.epoch(self, train, val, note=note, improved=improved)
        save(self, best=val if improved else None, epoch=state.epoch if over else None)
        self.last_step.reach()

    def amp(self) -> Any:
        """Return a context of mixed precision."""
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, dtype=self.autocast)

    def lr_factor(self) -> float:
        """Return the factor on the optimizer's lr in the next step.

        Schedules count time in epochs, taken here in the middle of the step. At its start a warm-up's first lr would
        be 0, at its end a drop would come a step early.
        """
        now = self.state.epoch + (self.state.batch + 0.5) / self.train_loader.num_batches
        return self.lr_penalty() * self.schedule.factor(now, epochs=self.config.epochs)

    def lr_penalty(self) -> float:
        """Return the factor on lr for the rollbacks so far."""
        return self.config.divergence.lr_factor**self.state.rollbacks

    def out_of_steps(self) -> bool:
        return self.config.max_steps is not None and self.state.step >= self.config.max_steps

    def finished(self) -> bool:
        """Return True if every step is trained and, after the last one, validated, or if the run ends earlier."""
        every_step = self.state.epoch >= self.config.epochs or (self.out_of_steps() and self.state.batch == 0)
        return every_step or reason_to_end(self) is not None

    def seconds(self) -> float:
        """Return how long the run has trained and validated, before and after it was resumed."""
        return self.state.seconds + time.monotonic() - self.started_at


def gradients_synced(model: nn.Module, *, when: bool) -> Any:
    """Return a context for forward and backward in which ranks exchange gradients only `when` a step's last part."""
    inner: Any = getattr(model, "_orig_mod", model)
    if isinstance(inner, DistributedDataParallel) and not when:
        return inner.no_sync()
    sync: Any = getattr(inner, "set_requires_gradient_sync", None)
    if sync is not None:  # its weights are shared out
        sync(when)
    return nullcontext()


def _call(hooks: list[Hook], trainer: Trainer) -> None:
    for hook in hooks:
        hook(trainer)
