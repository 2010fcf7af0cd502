"""Commands that read a set of images: a folder, or the set that train.py's words name."""

import re
from collections.abc import Sequence

from imgcls.config import compose
from imgcls.data.decoding import AS_STORED
from imgcls.data.sets import ImageSet, open_folder, open_image_set, pixel_rules
from imgcls.environment import command
from imgcls.errors import ConfigError


def split_data_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that name a set, data=... and data.KEY=..., and the others."""
    named = [word for word in words if re.match(r"data[.=]", word)]
    return named, [word for word in words if word not in named]


def open_set(
    root: str | None, data_words: Sequence[str], *, name: str, train: str = "train", val: str = "val"
) -> ImageSet:
    """Open the folder `root`, or the set of train.py's words.

    Args:
        name: of the command, whose usage an error shows.
        train, val: the folders of the two parts below `root`.

    Raises:
        ConfigError, ValueError, FileNotFoundError: neither is named, both are, or the set cannot be opened.
    """
    if bool(data_words) == (root is not None):
        raise ConfigError(
            f"name the images once: {command(name)} DIR TARGET, or {command(name)} data=... data.root=... TARGET"
        )
    if root is not None:
        return open_folder(root, train=train, val=val)
    config = compose(data_words)
    if pixel_rules(config.data) != AS_STORED:
        raise ConfigError("data.alpha, data.orientation and data.bits: leave them out; train.py takes them")
    return open_image_set(config)
