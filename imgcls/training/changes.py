"""A run that goes on with another config: fit what its checkpoint saved to parts that are built from the new one."""

import logging
from typing import TYPE_CHECKING, Any

import torch

from imgcls.checkpoints import CheckpointError
from imgcls.config import Config, compared, consequential, from_flat
from imgcls.errors import ConfigError
from imgcls.runs import config_differences, epochs_text
from imgcls.training.groups import optimizer_groups

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer

log = logging.getLogger(__name__)
OF_THE_CONFIG = {"params", "lr", "initial_lr"}  # keys of an optimizer's group, besides its own settings


def changed_settings(trainer: "Trainer", saved: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that the trainer has otherwise than the snapshot `saved`, each as (there, now).

    The precision that was taken counts: precision=auto is another one on another device.
    """
    there = consequential(from_flat(saved["config"]))
    changed = config_differences(compared(there), compared(trainer.description["config"]))
    if saved.get("precision") != trainer.description["precision"]:
        changed["precision"] = (saved.get("precision"), trainer.description["precision"])
    return changed


def fit_to_changes(trainer: "Trainer", saved: dict[str, Any]) -> dict[str, Any]:
    """Return the snapshot `saved` as the trainer can load it, if its config is another one.

    The weights, the optimizer's state of each parameter, the average and all counters are kept; the settings of the
    optimizer and of the schedule are the new ones. The same snapshot and config give the same bits.

    Raises:
        ConfigError: the run has trained too far for one of the new settings.
        CheckpointError: the snapshot was edited.
    """
    try:
        changed = changed_settings(trainer, saved)
        if not changed:
            return saved
        before = from_flat(saved["config"])
        state = dict(saved["state"])
        _check_position(trainer.config, before, state)
        if changed.keys() & {"batch_size", "microbatch"}:
            state["microbatch"] = trainer.state.microbatch or min(state["microbatch"], trainer.config.batch_size)
        new_average = trainer.average is not None and saved["average"] is None
        new_scaler = bool(saved["scaler"]) != trainer.scaler.is_enabled()
        return saved | {
            "config": trainer.description["config"],
            "precision": trainer.description["precision"],
            "average": None if trainer.average is None else saved["model" if new_average else "average"],
            "optimizer": _optimizer(trainer, saved["optimizer"], before),
            "schedule": trainer.schedule.state_dict() if "schedule._target_" in changed else saved["schedule"],
            "scaler": trainer.scaler.state_dict() if new_scaler else saved["scaler"],
            "state": state,
        }
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"{trainer.checkpoints.run_dir}: the checkpoint that the run goes on from was edited "
            f"({type(error).__name__}: {error}); remove it to go on from the one before"
        ) from error


def _check_position(config: Config, before: Config, state: dict[str, Any]) -> None:
    if state["epoch"] > config.epochs:
        trained = epochs_text(state["epoch"])
        raise ConfigError(f"epochs={config.epochs}: the run has trained {trained} already; give more")
    # What decides which images the rest of an epoch has.
    of_an_epoch = {
        "batch_size": (config.batch_size, before.batch_size),
        "data.stream_gb": (config.data.stream_gb, before.data.stream_gb),
    }
    for key, (now, then) in of_an_epoch.items():
        if state["batch"] and now != then:
            raise ConfigError(
                f"{key}={now}: the run stopped after {state['batch']} steps of epoch {state['epoch'] + 1}, which it "
                f"began with {key}={then}; let it end that epoch first (epochs={state['epoch'] + 1} continue_run=true)"
            )


def _optimizer(trainer: "Trainer", saved: dict[str, Any], before: Config) -> dict[str, Any]:
    """Return the saved state of each parameter at its place now, with the settings of the new config.

    A parameter is known by its name: in another group, as for another lr, it has another place.
    """
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    states: dict[str, Any] = {}
    more: dict[str, dict[str, Any]] = {}  # what an optimizer itself keeps in a group, such as the number of its steps
    settings = OF_THE_CONFIG | trainer.optimizer.defaults.keys()
    with trainer.freezing.lifted():
        groups = optimizer_groups(before, trainer.model)
    for group, there in zip(groups, saved["param_groups"], strict=True):
        kept = {key: there[key] for key in there.keys() - settings}
        for parameter, place in zip(group["params"], there["params"], strict=True):
            more[names[id(parameter)]] = kept
            if place in saved["state"]:
                states[names[id(parameter)]] = saved["state"][place]
    fitted = trainer.optimizer.state_dict()
    fitted["state"] = {}
    for group, now in zip(trainer.optimizer.param_groups, fitted["param_groups"], strict=True):
        now.update(more.get(names[id(group["params"][0])], {}))
        for parameter, place in zip(group["params"], now["params"], strict=True):
            if names[id(parameter)] in states:
                fitted["state"][place] = states[names[id(parameter)]]
            elif names[id(parameter)] not in more and _needs_momentum(trainer, group, states):
                fitted["state"][place] = {"momentum_buffer": torch.zeros_like(parameter)}
    return fitted


def _needs_momentum(trainer: "Trainer", group: dict[str, Any], states: dict[str, Any]) -> bool:
    # As optim.fill_momenta, for parameters that the run before the change had frozen for good.
    return isinstance(trainer.optimizer, torch.optim.SGD) and bool(group["momentum"]) and bool(states)


def log_changes(trainer: "Trainer", changed: dict[str, tuple[Any, Any]]) -> None:
    """Log the `changed_settings` that the run goes on with, and the lr of its next step."""
    if not changed:
        return
    shown = ", ".join(f"{key} {now} (was {there})" for key, (there, now) in changed.items())
    log.info("changed  %s", shown)
    group = trainer.optimizer.param_groups[0]
    if "lr" in group and trainer.state.epoch < trainer.config.epochs:
        log.info("changed  the next step has lr %.4g", group.get("initial_lr", group["lr"]) * trainer.lr_factor())
