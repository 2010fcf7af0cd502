"""What makes a run the run it is: the settings that its result depends on, and the name of its directory."""

import dataclasses
import functools
import hashlib
import math
import os
import re
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imgcls.config.image_size import ImageSize
from imgcls.config.messages import one_line
from imgcls.config.schema import Config
from imgcls.config.settings import settings_of
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError

OF_ANY_IMAGES = ("folder", "pack", "webdataset", "parquet", "hf", "csv")  # data sets that only data.root tells apart
# Keys, or parts of the config, in the order of a run's name; the others are between the two.
COMPARED_FIRST = ("recipe", "optimizer.lr", "optimizer", "schedule", "augment", "seed", "model")
SIZES = ("batch_size", "image_size", "epochs", "max_steps")
IMAGE_SIZE_LIST = re.compile(r"\b(image_size)-\[\s*(\d+)\s*,\s*(\d+)\s*\]")  # image_size=[224,160], in a run's name
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


@functools.cache
def defaults() -> dict[str, Any]:
    """Return by dotted keys what releases without a setting did: its default, unless the setting has `earlier`.

    Augmentations of whole batches have theirs, which is off, in conf/config.yaml.
    """
    own = {key: rule.earlier for key, rule in settings_of(Config) if rule.earlier is not None}
    batch = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "config.yaml").augment.batch)
    known = flatten(Config()) | own | flatten({"augment": {"batch": batch}})
    return {key: value for key, value in known.items() if value != MISSING}


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
    return {key: value for key, value in flatten(config).items() if not is_incidental(key)}


def is_incidental(key: str) -> bool:
    """Return True if the dotted `key`, or the part that it belongs to, changes nothing in a run's result."""
    return key in INCIDENTAL or key.partition(".")[0] in INCIDENTAL


def with_new_settings(saved: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the flat config of a saved run, with those settings of `config` that its release did not have.

    They have the value that means what it did: their default, unless the setting says otherwise.
    """
    saved = by_names_of_now(saved)
    known = defaults()
    return saved | {key: known[key] for key in config.keys() & known.keys() - saved.keys()}


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


def images_name(data: str, root: str | None) -> str:
    """Return the name of the folder or file of the images, where data= does not say which images they are."""
    if data not in OF_ANY_IMAGES or root is None:
        return ""
    path = Path(os.path.abspath(os.path.expanduser(root)))
    if data == "csv":
        return f"{path.parent.name}-{path.stem}"  # many a table is called labels.csv
    return path.parent.name if "{" in path.name or "*" in path.name else path.name


def run_name(name: str | None, override_dirname: str, images: str = "") -> str:
    """Return the name of a run's directory: `name=`, or images and overrides that matter, short enough for a disk.

    What is compared most comes first, the size of the run last, as lists of runs show the first letters of a name.

    It is one folder below the model's and the data's, never `a/b` or `..`, and neither Hydra nor a shell needs quotes
    around it. If a `name=` had to change, a hash tells it from others, so that `a/b` and `a_b` are two runs.
    """
    override_dirname = IMAGE_SIZE_LIST.sub(
        lambda found: f"{found[1]}-{ImageSize(int(found[2]), int(found[3]))}", override_dirname
    )
    keys = {override: override.partition("-")[0] for override in re.split(r"\+(?=[a-z])", override_dirname)}
    # Hydra leaves out what it is given by name; the settings of loggers have their own names.
    overrides = sorted((each for each in keys if not is_incidental(keys[each])), key=lambda each: _rank(keys[each]))
    if given := [each for each in overrides if keys[each] == "data.name"]:  # of data=hf: it says which images they are
        overrides.remove(given[0])
        images = os.path.basename(given[0].removeprefix("data.name-").rstrip("/"))
    whole = name or "+".join(part for part in (images, *overrides) if part) or "default"
    safe = re.sub(r"^\.+$|[^\w.+-]+", "_", whole)
    short = safe.encode()[:100].decode(errors="ignore") if len(safe.encode()) > 120 else safe
    if short != safe or (name and safe != name):
        short = f"{short}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
    return short


def _rank(key: str) -> int:
    first = (number for number, part in enumerate(COMPARED_FIRST) if f"{key}.".startswith(f"{part}."))
    return 2 * len(COMPARED_FIRST) if key in SIZES else next(first, len(COMPARED_FIRST))
