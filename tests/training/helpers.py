"""What the trainer's tests share: comparing runs, and stopping or spoiling one through its hooks."""

import csv
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from imgcls.checkpoints import compare_runs
from imgcls.config import Config
from imgcls.data.loading import Batch, Loader
from imgcls.training import Trainer

Make = Callable[..., Config]
Train = Callable[..., dict[str, Any]]
Prepare = Callable[[Trainer], None]

# Everything that has a state or draws at random, at once.
EVERYTHING = ("augment=modern", "augment.policy=null", "ema_decay=0.9", "label_smoothing=0.1", "microbatch=5")


class Killed(BaseException):
    """Stands for a kill of the process: nothing catches it."""


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def differences(one: Path, other: Path) -> list[Any]:
    """Return every part in which two runs' directories differ."""
    return [verdict for verdict in compare_runs(one, other) if verdict.differences]


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stop_at_step(step: int) -> Prepare:
    """Let a signal arrive after an optimizer step."""

    def stop(trainer: Trainer) -> None:
        if trainer.state.step == step:
            trainer.signals.received = signal.SIGTERM

    return lambda trainer: trainer.after_step.append(stop)


def kill_at_step(step: int, *, rollbacks: int = 0) -> Prepare:
    """Kill the run before an optimizer step, the first being 0, once it has gone back so many times."""

    def kill(trainer: Trainer) -> None:
        if trainer.state.step == step and trainer.state.rollbacks == rollbacks:
            raise Killed

    return lambda trainer: trainer.before_step.append(kill)


def fill_a_weight(trainer: Trainer, value: float) -> None:
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(value)


def poison(*steps: int, rollbacks: int = 100) -> Prepare:
    """Ruin a weight before each of these steps, the first being 0, until the run has gone back so many times."""

    def ruin(trainer: Trainer) -> None:
        if trainer.state.step in steps and trainer.state.rollbacks < rollbacks:
            fill_a_weight(trainer, float("nan"))

    return lambda trainer: trainer.before_step.append(ruin)


def all_of(*prepares: Prepare) -> Prepare:
    def prepare(trainer: Trainer) -> None:
        for each in prepares:
            each(trainer)

    return prepare


class LoaderWrapper:
    """A loader whose epochs pass through `change`."""

    def __init__(self, loader: Loader, change: Callable[[Iterator[Batch]], Iterator[Batch]]) -> None:
        self._loader = loader
        self._change = change

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        return self._change(self._loader.epoch(epoch, start=start))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
