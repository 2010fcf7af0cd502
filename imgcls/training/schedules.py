"""Learning-rate schedules: the factor on the optimizer's lr at a point in time.

Time is counted in epochs, as a real number. A schedule has no step counter, which could differ from the run's; what it
must remember is in `state_dict`.
"""

import math
from typing import Any, Protocol

from imgcls.runs import epochs_text


class Schedule(Protocol):
    """What the loop asks of a schedule."""

    def factor(self, epoch: float, *, epochs: int) -> float:
        """Return what lr is multiplied by at `epoch` (0.5 is halfway through the first) of `epochs`."""
        ...

    def epoch_ended(self, val_top1: float | None) -> str | None:
        """Take note of an epoch's validation top-1, in percent, or None where the epoch was not validated.

        Returns:
            A line for the log where lr changes.
        """
        ...

    def reason_to_end(self, lr: float) -> str | None:
        """Return why a run with the optimizer's `lr` ends before its last epoch, or None."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Constant:
    """lr as it is, after a linear warm-up from 0 over `warmup_epochs`.

    Goyal et al. 2017, section 2.2, start from the lr of a small batch instead.
    """

    def __init__(self, *, warmup_epochs: float = 0) -> None:
        if warmup_epochs < 0:
            raise ValueError(f"schedule.warmup_epochs={warmup_epochs} must not be negative")
        self.warmup_epochs = warmup_epochs

    def factor(self, epoch: float, *, epochs: int) -> float:
        return min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0

    def epoch_ended(self, val_top1: float | None) -> str | None:
        return None

    def reason_to_end(self, lr: float) -> str | None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state  # a function of the epoch alone


class Step(Constant):
    """lr times `factor` every `every_epochs`; GoogLeNet: 0.96 every 8 (Szegedy et al. 2014, section 6)."""

    def __init__(self, *, factor: float, every_epochs: int, warmup_epochs: float = 0) -> None:
        super().__init__(warmup_epochs=warmup_epochs)
        if every_epochs < 1:
            raise ValueError(f"schedule.every_epochs={every_epochs} must be at least 1")
        _check_factor(factor)
        self.step_factor = factor
        self.every_epochs = every_epochs

    def factor(self, epoch: float, *, epochs: int) -> float:
        return super().factor(epoch, epochs=epochs) * self.step_factor ** (int(epoch) // self.every_epochs)


class Cosine(Constant):
    """Half a cosine from 1 after the warm-up to `final_factor` at the end (Loshchilov & Hutter 2017, equation 5).

    Args:
        warmup_epochs: None: 5, or a tenth of a run shorter than 50 epochs.
    """

    def __init__(self, *, warmup_epochs: float | None = None, final_factor: float = 0.0) -> None:
        super().__init__(warmup_epochs=warmup_epochs or 0)
        self.usual_warmup = warmup_epochs is None
        if not 0 <= final_factor <= 1:
            raise ValueError(f"schedule.final_factor={final_factor} must be between 0 and 1; it is a part of lr")
        self.final_factor = final_factor

    def factor(self, epoch: float, *, epochs: int) -> float:
        warmup = min(5, epochs / 10) if self.usual_warmup else self.warmup_epochs
        if epoch < warmup:
            return epoch / warmup
        progress = (epoch - warmup) / (epochs - warmup)
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2


class Plateau(Constant):
    """lr times `factor` after `patience_epochs` epochs in which validation top-1 gained nothing, or under `min_gain`.

    Krizhevsky et al. 2012, section 5, divided lr by 10 by hand when the validation error stopped falling.

    Args:
        min_epochs: so many epochs of a run count as no stall; a deep network may be at chance in them.
        min_lr: a drop below it ends the run.
    """

    def __init__(
        self,
        *,
        factor: float = 0.1,
        patience_epochs: int = 5,
        min_gain: float = 0.1,
        min_epochs: int = 0,
        min_lr: float | None = None,
        warmup_epochs: float = 0,
    ) -> None:
        super().__init__(warmup_epochs=warmup_epochs)
        if patience_epochs < 1:
            raise ValueError(f"schedule.patience_epochs={patience_epochs} must be at least 1")
        if min_gain < 0:
            raise ValueError(f"schedule.min_gain={min_gain} must not be negative; it is in points of top-1")
        if min_epochs < 0:
            raise ValueError(f"schedule.min_epochs={min_epochs} must not be negative")
        if min_lr is not None and min_lr <= 0:
            raise ValueError(f"schedule.min_lr={min_lr} must be above 0; null trains all epochs")
        _check_factor(factor)
        self.step_factor = factor
        self.min_lr = min_lr
        self.patience_epochs = patience_epochs
        self.min_gain = min_gain
        self.best_top1 = -math.inf
        self.stalled_epochs = -min_epochs  # below 0 an epoch counts as no stall
        self.num_drops = 0

    def factor(self, epoch: float, *, epochs: int) -> float:
        return super().factor(epoch, epochs=epochs) * self.step_factor**self.num_drops

    def epoch_ended(self, val_top1: float | None) -> str | None:
        self.stalled_epochs += 1
        if val_top1 is None:  # it counts, and the next one that is validated decides
            return None
        if val_top1 > self.best_top1 and val_top1 >= self.best_top1 + self.min_gain:
            self.best_top1 = val_top1
            self.stalled_epochs = min(self.stalled_epochs, 0)
            return None
        if self.stalled_epochs < self.patience_epochs:
            return None
        self.stalled_epochs = 0
        self.num_drops += 1
        return (
            f"validation top-1 rose by less than {self.min_gain:g} points from {self.best_top1:.2f} % in "
            f"{epochs_text(self.patience_epochs)}: lr x {self.step_factor:g}"
        )

    def reason_to_end(self, lr: float) -> str | None:
        dropped = lr * self.step_factor**self.num_drops
        if self.min_lr is None or dropped > self.min_lr * (1 - 1e-9):  # three times a tenth is no exact thousandth
            return None
        return f"validation top-1 stalled, and lr would drop to {dropped:.3g} (schedule.min_lr={self.min_lr:g})"

    def state_dict(self) -> dict[str, Any]:
        return {"best_top1": self.best_top1, "stalled_epochs": self.stalled_epochs, "num_drops": self.num_drops}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_top1 = state["best_top1"]
        self.stalled_epochs = state["stalled_epochs"]
        self.num_drops = state["num_drops"]


def _check_factor(factor: float) -> None:
    if not 0 < factor <= 1:
        raise ValueError(f"schedule.factor={factor} must be above 0 and at most 1")
