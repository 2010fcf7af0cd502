"""Check a snapshot before it is loaded: its checksum proves that it is whole, not that it is of this run."""

import math
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from imgcls.checkpoints import CheckpointError
from imgcls.runs import is_number

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer


def check_saved(trainer: "Trainer", saved: dict[str, Any]) -> None:
    """Compare a snapshot's parts with those of the trainer: names, types, shapes, and the bounds of counters.

    Raises:
        CheckpointError: they differ.
    """
    try:
        _check_same_kind(
            {key: saved.get(key) for key in ("model", "average", "schedule", "scaler", "state", "meters")},
            {
                "model": trainer.model.state_dict(),
                "average": None if trainer.average is None else trainer.average.model.state_dict(),
                "schedule": trainer.schedule.state_dict(),
                "scaler": trainer.scaler.state_dict(),
                "state": asdict(trainer.state),
                "meters": {"sums": trainer.meter.sums, "sums_at_last_log": trainer.run_log.sums_at_last_log},
            },
            "",
        )
        _check_state(trainer, saved["state"])
        _check_optimizer(saved.get("optimizer"), trainer.optimizer.state_dict(), trainer)
        _check_positions(trainer, saved)
    except ValueError as error:
        raise CheckpointError(
            f"{trainer.checkpoints.run_dir}: the checkpoint that the run resumes from is not of this run, or was "
            f"edited ({error}); remove it to resume from the one before, or train from scratch (overwrite=true)"
        ) from None


def _check_same_kind(value: Any, wanted: Any, key: str) -> None:
    """Compare the keys, types and shapes of `value`, which is saved as `key`, with those of the trainer's own."""
    if isinstance(wanted, dict):
        if key == "state.best":  # empty until the first epoch ends
            _check_scores(value)
            return
        if not isinstance(value, dict) or value.keys() != wanted.keys():
            raise ValueError(f"{key or 'the snapshot'} has other keys than this run's")
        for name, part in wanted.items():
            _check_same_kind(value[name], part, f"{key}.{name}" if key else str(name))
    elif isinstance(wanted, Tensor):
        if not isinstance(value, Tensor) or value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise ValueError(f"{key} is no tensor of {tuple(wanted.shape)}, {wanted.dtype}")
    elif is_number(wanted):
        if not is_number(value) or (isinstance(wanted, int) and not isinstance(value, int)):
            raise ValueError(f"{key} is no number")
    elif wanted is not None and type(value) is not type(wanted):
        raise ValueError(f"{key} is no {type(wanted).__name__}")


def _check_scores(scores: Any) -> None:
    named = isinstance(scores, dict) and all(isinstance(name, str) for name in scores)
    if not named or not all(value is None or is_number(value) for value in scores.values()):
        raise ValueError("state.best holds no scores")


def _check_state(trainer: "Trainer", state: dict[str, Any]) -> None:
    for counter in fields(trainer.state):
        value = state[counter.name]
        if is_number(value) and not 0 <= value < 1e15:
            raise ValueError(f"state.{counter.name} is {value}")
    if state["epoch"] > trainer.config.epochs or state["batch"] > trainer.train_loader.num_batches:
        raise ValueError("state.epoch or state.batch is beyond the end")
    if not 1 <= state["microbatch"] <= trainer.config.batch_size:
        raise ValueError(f"state.microbatch is {state['microbatch']}")


def _check_optimizer(value: Any, wanted: dict[str, Any], trainer: "Trainer") -> None:
    if not isinstance(value, dict) or value.keys() != wanted.keys():
        raise ValueError("optimizer has other keys than this run's")
    groups, states = value["param_groups"], value["state"]
    if not isinstance(groups, list) or len(groups) != len(wanted["param_groups"]):
        raise ValueError("optimizer has another number of param_groups")
    for group, own in zip(groups, wanted["param_groups"], strict=True):
        own = {"initial_lr": own["lr"], **own}  # the first step adds initial_lr
        if not isinstance(group, dict) or {"initial_lr", *group} != own.keys() or group["params"] != own["params"]:
            raise ValueError("optimizer.param_groups holds other parameters or settings")
        for name in group.keys() - {"params"}:
            _check_setting(group[name], own[name], f"optimizer.{name}")
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in wanted["param_groups"] for number in group["params"]]
    shapes = {number: parameter.shape for number, parameter in zip(numbers, parameters, strict=True)}
    if not isinstance(states, dict) or not states.keys() <= shapes.keys():
        raise ValueError("optimizer.state has parameters that the network has not")
    _check_states(states, shapes)


def _check_setting(value: Any, wanted: Any, key: str) -> None:
    same_kind = type(value) is type(wanted) or (is_number(value) and is_number(wanted))
    if isinstance(wanted, list | tuple):
        same_kind = isinstance(value, list | tuple) and len(value) == len(wanted)
        same_kind = same_kind and all(map(is_number, value)) == all(map(is_number, wanted))
    if not same_kind or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{key} is {value!r}")


def _check_states(states: dict[Any, Any], shapes: dict[Any, Any]) -> None:
    names = None
    for number, state in states.items():
        if not isinstance(state, dict) or (names is not None and state.keys() != names):
            raise ValueError(f"optimizer.state.{number} has other keys")
        names = state.keys()
        for name, value in state.items():
            # Besides values for each weight an optimizer keeps single ones, such as a count of steps.
            if isinstance(value, Tensor) and value.numel() != 1 and value.shape != shapes[number]:
                raise ValueError(f"optimizer.state.{number}.{name} is of another shape")
            if isinstance(value, Tensor) and not value.is_floating_point():
                raise ValueError(f"optimizer.state.{number}.{name} is of another type")
            if not isinstance(value, Tensor) and not is_number(value) and value is not None:
                raise ValueError(f"optimizer.state.{number}.{name} is {value!r}")


def _check_positions(trainer: "Trainer", saved: dict[str, Any]) -> None:
    events, bad_images = saved.get("events"), saved.get("bad_images")
    if not isinstance(events, dict) or not all(type(size) is int and size >= 0 for size in events.values()):
        raise ValueError("events holds no lengths of files")
    num_images = len(trainer.train_loader.bad_images.split)
    if not isinstance(bad_images, list) or not all(
        type(index) is int and 0 <= index < num_images for index in bad_images
    ):
        raise ValueError("bad_images holds no positions of training images")
