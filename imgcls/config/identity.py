"""What makes a run the run it is: the settings that its result depends on, and the name of its directory."""

import dataclasses
import hashlib
import math
import re
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imgcls.config.messages import one_line
from imgcls.config.schema import Config
from imgcls.config.settings import settings_of
from imgcls.errors import ConfigError

INCIDENTAL = frozenset(key for key, rule in settings_of(Config) if rule.incidental)
# What a run that goes on keeps. Of the optimizer: what decides which values its state has.
FIXED = (
    *(key for key, rule in settings_of(Config) if rule.fixed),
    "optimizer._target_",
    "optimizer.amsgrad",
    "optimizer.centered",
)


def by_names_of_now(flat: dict[str, Any]) -> dict[str, Any]:
    """Return a flat config that an earlier release saved with the keys that its settings have now."""
    flat = dict(flat)
    if alone := flat.pop("head_only_epochs", 0):
        flat |= {"freeze": "backbone", "unfreeze_after_epochs": math.ceil(alone)}
    return flat


def from_flat(flat: dict[str, Any]) -> Config:
    """Return the config whose `flatten` or `consequential` is `flat`; keys that are missing have their default.

    Raises:
        ConfigError: keys that this version does not know, or values that they do not take.
    """
    tree: dict[str, Any] = {}
    for key, value in by_names_of_now(flat).items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(tree)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"its config is of another version of imgcls: {one_line(error)}") from error
    assert isinstance(config, Config)
    return config


def flatten(config: Config | dict[str, Any]) -> dict[str, Any]:
    """Return the config as dotted keys and plain values: `{"optimizer.lr": 0.1, ...}`."""
    tree = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{sub}": leaf for sub, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def consequential(config: Config | dict[str, Any]) -> dict[str, Any]:
    """Return the part of `flatten(config)` that a run's result depends on."""
    return {key: value for key, value in flatten(config).items() if key not in INCIDENTAL}


def compared(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a flat config that a resumed run has in common with its checkpoint."""
    # What is trusted changes no result, but it is kept in the run's config.
    return {key: value for key, value in consequential(by_names_of_now(config)).items() if key != "trust"}


def is_fixed(key: str) -> bool:
    """Return True if a run cannot go on with another value of the dotted `key`."""
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED)


def keys_not_in_run_name() -> list[str]:
    """Return the keys that Hydra leaves out of a run's name: incidental ones, and what the folder above says."""
    return ["model", "data", "trust", *sorted(INCIDENTAL)]


def run_name(name: str | None, override_dirname: str) -> str:
    """Return the name of a run's directory: `name=` if given, else the overrides that matter, short enough for a disk.

    It is one folder below the model's and the data's, never `a/b` or `..`, and neither Hydra nor a shell needs quotes
    around it. If a `name=` had to change, a hash tells it from others, so that `a/b` and `a_b` are two runs.
    """
    whole = name or override_dirname or "default"
    safe = re.sub(r"^\.+$|[^\w.+-]+", "_", whole)
    short = safe.encode()[:100].decode(errors="ignore") if len(safe.encode()) > 120 else safe
    if short != safe or (name and safe != name):
        short = f"{short}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
    return short
