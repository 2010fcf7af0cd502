"""The size of a run on a set of few images: recipes are sized for the 1.28 million of ImageNet."""

import dataclasses
from typing import Any

from imgcls.config.checks import check_config
from imgcls.config.schema import Config
from imgcls.environment import launch

# An epoch has at least this many steps if the set allows it, so that a schedule in epochs is not one in single steps.
MIN_STEPS_AN_EPOCH = 32
MIN_BATCH = 8  # batch normalisation takes its statistics over the batch
MIN_EPOCHS = 10
NUM_STEPS = 3000  # of a small set's run: some minutes of a GPU
LEFT_OPEN: dict[str, Any] = {"batch_size": 0, "epochs": 0, "lr_scaling": "auto"}


def has_open_size(config: Config) -> bool:
    """Return True if `fit_to_set` has something to choose."""
    return any(getattr(config, key) == value for key, value in LEFT_OPEN.items())


def fit_to_set(config: Config, num_images: int) -> Config:
    """Return the config with the batch size, the epochs and the lr scaling that it leaves open chosen.

    A set of at least 32 of the recipe's batches is trained by the recipe. A smaller one has the power of two as batch
    that gives an epoch of 32 steps or more, at least 8; as many epochs as give 3,000 steps, at least 10 and at most the
    recipe's; and an lr scaled with the batch by `recipe.small_lr_scaling`, mostly linearly. A number there belongs to
    the batch and the image size of the set that brings both.

    Args:
        num_images: of training.

    Raises:
        ConfigError: a setting does not fit what was chosen.
    """
    fitted = _fitted(config, num_images)
    check_config(fitted)
    return fitted


def _fitted(config: Config, num_images: int) -> Config:
    recipe, ranks = config.recipe, (launch() or (0, 1, 0))[1]
    small = num_images < MIN_STEPS_AN_EPOCH * recipe.batch_size
    batch_size = recipe.batch_size
    if small:
        power_of_two = 1 << max(num_images // MIN_STEPS_AN_EPOCH, 1).bit_length() - 1
        batch_size = min(max(power_of_two, MIN_BATCH), recipe.batch_size, num_images)
        batch_size = max(batch_size // ranks, 1) * ranks
    batch_size = config.batch_size or batch_size
    steps = max(num_images // batch_size, 1)
    epochs = min(max(-(-NUM_STEPS // steps), MIN_EPOCHS), recipe.epochs) if small else recipe.epochs
    rule = recipe.small_lr_scaling if isinstance(recipe.small_lr_scaling, str) else "linear"
    scaling = rule if small and config.batch_size == 0 else "none"
    return dataclasses.replace(
        config,
        batch_size=batch_size,
        epochs=config.epochs or epochs,
        lr_scaling=scaling if config.lr_scaling == "auto" else config.lr_scaling,
    )


def brought_by_set(config: Config, num_images: int) -> dict[str, int]:
    """Return the sizes of a run that are not its recipe's but its data set's: image_size, batch_size, epochs."""
    scale = config.data.scale
    own = {key: getattr(scale, key) for key in ("image_size", "batch_size", "epochs")}
    open_sizes = {key: 0 for key, value in own.items() if value == 0}
    # It is not checked: other settings of the run are for its own sizes.
    fitted = _fitted(dataclasses.replace(config, **open_sizes), num_images)
    sizes = {key: getattr(fitted if key in open_sizes else scale, key) for key in own}
    return {
        key: size
        for key, size in sizes.items()
        if size is not None and size == getattr(config, key) != getattr(config.recipe, key)
    }
