"""A loss that is not finite, or that does not leave chance: how it is noticed, and what the run does about it."""

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from imgcls import distributed
from imgcls.config import Config
from imgcls.errors import RunError
from imgcls.training.sharding import local_part
from imgcls.training.state import load, snapshot

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer

log = logging.getLogger(__name__)
# A loss within this share of chance is at chance: ln(1000) is 6.908, and a network that learns is below 6.84 within
# some hundred steps.
NEAR_CHANCE = 0.01


class DivergedError(RunError):
    """The loss is not finite: the text names the step and what to try."""


class StuckError(RunError):
    """The loss stays at chance: the text says for how long and what to try."""


class FiniteLossWatch:
    """Collects the loss of each step on the device; looking at them, and waiting for the device, is left to `check`."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._last_step = 0

    def update(self, loss: Tensor, *, step: int) -> None:
        """Add the loss (scalar) of optimizer step `step`, which follows the step added before."""
        self._losses.append(loss)
        self._last_step = step

    def check(self, *, epoch: int) -> None:
        """Look at the losses since the last check; this waits for the device.

        Raises:
            DivergedError: a loss was not finite, on any rank.
        """
        bad_step = 0
        if self._losses:
            finite = torch.stack(self._losses).isfinite().tolist()
            if not all(finite):
                bad_step = self._last_step - len(finite) + 1 + finite.index(False)
        self.reset()
        if step := distributed.agree(bad_step):
            raise DivergedError(f"the loss at step {step} (epoch {epoch}) is not finite")

    def reset(self) -> None:
        self._losses.clear()


def check_weights(model: nn.Module, *, step: int) -> None:
    """Check the weights after a step, because the loss before it may be finite all the same.

    Raises:
        DivergedError: a weight is not finite, on any rank.
    """
    finite = torch.stack([local_part(each.detach()).isfinite().all() for each in model.parameters()]).all()
    if distributed.agree(int(not finite)):
        raise DivergedError(f"the weights after step {step} are not finite")


def roll_back(trainer: "Trainer", error: DivergedError) -> None:
    """Go back to the start of the epoch with a smaller lr, or end the run if the config does not allow that.

    Not to the newest checkpoint: when that was written is chance, and so the result would be chance too.

    Raises:
        DivergedError: with on_divergence=stop, or after divergence.max_rollbacks.
    """
    config, checkpoints, rollbacks = trainer.config, trainer.checkpoints, trainer.state.rollbacks + 1
    checkpoints.settle()
    if config.on_divergence != "rollback" or rollbacks > config.divergence.max_rollbacks:
        raise explain_divergence(error, config, saved=checkpoints.latest() is not None) from error
    saved = checkpoints.before_epoch(trainer.state.epoch)
    assert saved is not None
    load(trainer, saved)
    trainer.state.rollbacks = rollbacks
    # Saved before the event files are cut: a kill in between leaves a last.pt that knows how far they are good.
    checkpoints.save(snapshot(trainer) | {"events": saved["events"]})
    checkpoints.settle()
    checkpoints.forget_previous()
    trainer.run_log.reopen(saved["events"])
    log.warning(
        "%s: going back to step %d with lr x %g (%d of %d times)",
        error,
        trainer.state.step,
        config.divergence.lr_factor**rollbacks,
        rollbacks,
        config.divergence.max_rollbacks,
    )


def explain_divergence(error: DivergedError, config: Config, *, saved: bool) -> DivergedError:
    """Return the error that ends the run: what happened, what is saved, and what to try."""
    rollback = config.on_divergence == "rollback"
    after = f" after going back {config.divergence.max_rollbacks} times" if rollback else ""
    also = "" if rollback else ", or on_divergence=rollback"
    left = "what is saved is from before it" if saved else "nothing was saved before it"
    return DivergedError(
        f"{error}{after}; {left}. Try a lower optimizer.lr, schedule.warmup_epochs, "
        f"clip_grad_norm=1 or precision=fp32{also}"
    )


def check_moving(trainer: "Trainer", loss: float) -> None:
    """Warn if the logged losses have stayed at chance for too long, once, or stop the run.

    Raises:
        StuckError: divergence.on_stuck is stop.
    """
    state, policy, log_every = trainer.state, trainer.config.divergence, trainer.config.log_every_steps
    # Of uneven classes a network first learns how frequent each one is, and may learn nothing else.
    frequent = trainer.loss.at_frequencies(trainer.train_loader.class_shares, trainer.num_classes)
    chances = {frequent: "answering all images alike", trainer.loss.at_chance(trainer.num_classes): "guessing"}
    chance = min(chances, key=lambda level: abs(loss - level))
    if abs(loss - chance) > NEAR_CHANCE * chance:
        state.moving_step = state.step
    steps = state.step - state.moving_step
    # No fewer than three logs: one of them alone may be at chance by chance.
    limit = max(3 * log_every, min(policy.stuck_steps, round(policy.stuck_epochs * trainer.train_loader.num_batches)))
    if policy.on_stuck == "ignore" or not steps - log_every < limit <= steps:
        return
    text = (
        f"the loss has stayed at {loss:.3f} for {steps:,} steps, within 1 % of the {chance:.3f} that {chances[chance]} "
        f"gives: the network is not learning. Try {_cures(trainer)}, and look at the images and labels in TensorBoard"
    )
    if policy.on_stuck == "stop":
        raise StuckError(f"{text} (divergence.on_stuck=warn goes on)")
    log.warning(text)


def _cures(trainer: "Trainer") -> str:
    config = trainer.config
    # A lower lr than the paper's starves a network without normalisation: LeNet-5 on digits ends at 19 % with linear
    # scaling and at 99 % without.
    cures = ["optimizer.lr ten times lower (or higher)", "schedule.warmup_epochs"]
    if config.lr_scaling != "none" and config.batch_size < config.recipe.batch_size:
        cures.insert(0, f"lr_scaling=none, as lr was lowered for batch_size={config.batch_size}")
    if not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in trainer.model.modules()):
        cures.append("a network with batch normalisation")
    return ", ".join(cures)
