"""TODO imgcls.config.identity."""

import dataclasses
import hashlib
import re
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imgcls.config.messages import one_line
from imgcls.config.schema import Config
from imgcls.errors import ConfigError

# What does not change a run's result, or only says where its parts lie: left out of the run directory's name, and
# free to differ when a run is taken up again.
INCIDENTAL = (
    "name",
    "overwrite",
    "data.root",
    "data.num_threads",
    "data.prefetch",
    "data.cache_gb",
    "device",
    "min_val_top1",
    "tensorboard",
    "checkpoint.every_minutes",
    "checkpoint.keep",
    # A run that has diverged may be taken up again with another answer to it.
    "on_divergence",
    "divergence",
)


def from_flat(flat: dict[str, Any]) -> Config:
    """Return the config that `flatten`, or `consequential`, made dotted keys of; what those leave out has its default.

    Raises:
        ConfigError: keys that this version does not know, or values that they do not take.
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(tree)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"the checkpoint's config is of another version of imgcls: {one_line(error)}") from error
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
    """Return what of `flatten(config)` a run's result depends on."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == free or key.startswith(f"{free}.") for free in INCIDENTAL)
    }


def run_name(name: str | None, override_dirname: str) -> str:
    """Name a run by what it is: `name=` where given, else the overrides that matter, short enough for any disk.

    The name is of one folder below the model's and the data's: `a/b` or `..` leads nowhere else. Where a `name=` had to
    change, a hash keeps it apart from others, so that `a/b` and `a_b` are two runs.
    """
    whole = name or override_dirname or "default"
    safe = re.sub(r"^\.+$|[^\w.,=+-]+", "_", whole)
    short = safe.encode()[:100].decode(errors="ignore") if len(safe.encode()) > 120 else safe
    if short != safe or (name and safe != name):
        short = f"{short}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
    return short
