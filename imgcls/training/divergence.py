"""A loss that is no longer a number, or that does not move: how it is noticed, and what is said about it."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imgcls import distributed
from imgcls.errors import RunError

log = logging.getLogger(__name__)
# How near to chance a loss counts as standing there: ln(1000) is 6.908, and a network that has begun to learn is below
# 6.84 within some hundred steps.
NEAR_CHANCE = 0.01


class DivergedError(RunError):
    """The loss is not a number any more: its text names the step and what to try."""


class StuckError(RunError):
    """The loss does not leave where guessing is: its text says for how long and what to try."""


@dataclass(frozen=True)
class DivergencePolicy:
    """What is done about a run that diverges.

    Args:
        rollback: go back to the start of the epoch with a smaller lr, instead of stopping.
        lr_factor: what lr is multiplied by for each time that it went back.
        max_rollbacks: after so many the run stops all the same.
        stuck_epochs, stuck_steps: the loss may stay at chance for so long, whichever is over first.
        on_stuck: warn, stop or ignore.
    """

    rollback: bool = False
    lr_factor: float = 0.5
    max_rollbacks: int = 3
    stuck_epochs: float = 3
    stuck_steps: int = 5000
    on_stuck: str = "warn"

    def stuck_after(self, *, num_batches: int, log_every_steps: int) -> int:
        """Return how many optimizer steps at chance are too many: no fewer than three readings take."""
        return max(3 * log_every_steps, min(self.stuck_steps, round(self.stuck_epochs * num_batches)))


class FiniteLossWatch:
    """Remembers on the device the first step whose loss is not finite, so that noticing it costs no waiting."""

    def __init__(self, device: torch.device) -> None:
        self._bad_step = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, loss: Tensor, *, step: int) -> None:
        self._bad_step += step * ((self._bad_step == 0) & ~loss.isfinite())

    def check(self, *, epoch: int) -> None:
        """Wait for the device.

        Raises:
            DivergedError: a loss so far was not finite, on any rank.
        """
        if step := distributed.agree(int(self._bad_step)):
            raise DivergedError(f"the loss at step {step} (epoch {epoch}) is not finite")

    def reset(self) -> None:
        self._bad_step.zero_()


def check_weights(model: nn.Module, *, step: int) -> None:
    """Look for what a finite loss may hide: a last step that left weights which are no numbers.

    Raises:
        DivergedError: there are such.
    """
    finite = torch.stack([parameter.detach().isfinite().all() for parameter in model.parameters()]).all()
    if distributed.agree(int(not finite)):
        raise DivergedError(f"the weights after step {step} are not finite")


def explain_divergence(error: DivergedError, policy: DivergencePolicy, *, saved: bool) -> DivergedError:
    """Return the error that ends the run: what happened, where that leaves the user, and what to try."""
    tried = f" after going back {policy.max_rollbacks} times" if policy.rollback else ""
    also = "" if policy.rollback else ", or on_divergence=rollback"
    left = "what is saved is from before it" if saved else "nothing was saved before it"
    return DivergedError(
        f"{error}{tried}; {left}. Try a lower optimizer.lr, schedule.warmup_epochs, "
        f"clip_grad_norm=1 or precision=fp32{also}"
    )


def near_chance(loss: float, chance: float) -> bool:
    """Tell whether a mean loss is that of a network which knows nothing: `chance` is ln(classes)."""
    return abs(loss - chance) <= NEAR_CHANCE * chance


def report_stuck(policy: DivergencePolicy, *, loss: float, chance: float, steps: int) -> None:
    """Say that the loss has stayed at chance for `steps` steps, or stop the run for it.

    Raises:
        StuckError: divergence.on_stuck is stop.
    """
    text = (
        f"the loss has stayed at {loss:.3f} for {steps:,} steps, within 1 % of the {chance:.3f} that guessing gives: "
        "the network is not learning. Try optimizer.lr ten times lower (or higher), schedule.warmup_epochs, "
        "a network with batch normalisation, and look at the images and labels in TensorBoard"
    )
    if policy.on_stuck == "stop":
        raise StuckError(f"{text} (divergence.on_stuck=warn goes on)")
    log.warning(text)
