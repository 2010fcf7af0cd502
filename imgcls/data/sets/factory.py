"""Open the image set that a config names."""

import inspect
import os
from pathlib import Path
from typing import Any

from imgcls.config import Config, DataConfig, build_component, locate
from imgcls.data.decoding import PixelRules
from imgcls.data.sets.checksums import with_checksums, with_note_on_checksums
from imgcls.data.sets.exclusion import exclude
from imgcls.data.sets.files import FileSplit
from imgcls.data.sets.holdout import Holdout
from imgcls.data.sets.listing import no_permission
from imgcls.data.sets.splits import ImageSet, to_memorise
from imgcls.environment import printable
from imgcls.errors import ConfigError


def open_image_set(config: Config) -> ImageSet:
    """Open the data set that the config names, and hold `data.num_classes` against it.

    Raises:
        ValueError, FileNotFoundError: there is no such set, or a setting does not fit it.
    """
    data = config.data
    given = {"root": data.root, "channels": data.channels} | _given_to(data)
    opened = _build(data, given)
    opened.check_num_classes(data.num_classes)
    rules = pixel_rules(data)
    for split in (opened.train, opened.val):
        if isinstance(split, FileSplit) and split.takes_rules:
            split.rules = rules
        elif rules != PixelRules():
            raise ConfigError(
                f"data.alpha, data.orientation and data.bits are of image files; data={data.name} holds pixels, or was "
                "packed without them: leave them out"
            )
    opened = with_checksums(opened)
    if data.exclude is not None:
        opened = exclude(opened, Path(data.exclude).expanduser())
    opened = with_note_on_checksums(opened)
    return opened if data.memorise is None else to_memorise(opened, data.memorise)


def _build(data: DataConfig, given: dict[str, Any]) -> ImageSet:
    try:
        return build_component("data.source", data.source, **given)
    except ConfigError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or not isinstance(cause.filename, str | bytes):
            raise
        file = os.fsdecode(cause.filename)
        if isinstance(cause, PermissionError):
            raise ConfigError(no_permission(printable(file, lines=False), cause)) from error
        if isinstance(cause, FileNotFoundError) and os.path.islink(file):
            raise ConfigError(f"{file} is a link to nothing; restore what it links to, or remove the link") from error
        raise


def pixel_rules(data: DataConfig) -> PixelRules:
    """Return how the config shows pixels where there is a choice."""
    return PixelRules(data.alpha or "drop", data.orientation or "stored", data.bits)


def _given_to(data: DataConfig) -> dict[str, Any]:
    """Return the settings that only sets of files without fixed parts take; a set that does not take one refuses it."""
    holdout = None
    if data.val_share is not None or data.fold is not None or data.num_folds is not None:
        holdout = Holdout(data.val_share, data.fold, data.num_folds, data.split_seed)
    fixed = f"data={data.name} has fixed training images, validation images and classes"
    wanted = {
        "holdout": (holdout, None, f"{holdout}: {fixed}"),
        "class_order": (data.class_order, "text", f"data.class_order={data.class_order}: {fixed}"),
        "hub_name": (data.name, data.name, ""),
        "stream_gb": (
            data.stream_gb,
            None,
            f"data.stream_gb={data.stream_gb} is for shards (.tar) at a URL, not for data={data.name}: leave it out",
        ),
    }
    parameters = inspect.signature(locate("data.source", data.source.get("_target_"))).parameters
    given = {}
    for name, (value, default, refusal) in wanted.items():
        if name in parameters:
            given[name] = value
        elif value != default:
            raise ConfigError(refusal)
    return given
