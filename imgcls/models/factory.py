"""Build the network of a config, from scratch or from weights."""

import inspect
from typing import Any

import torch
from torch import nn

from imgcls.config import Config, build_component, locate
from imgcls.errors import ConfigError
from imgcls.models.external import without_weights
from imgcls.models.heads import start_from
from imgcls.models.weights import is_published


def build_model(config: Config, *, num_classes: int, with_weights: bool = True) -> nn.Module:
    """Build the network for `num_classes`, with its paper's initialisation drawn from the seed, or config.weights.

    Args:
        with_weights: False for a network that gets its weights elsewhere: nothing is downloaded or read from disk.

    Raises:
        ConfigError: a setting does not fit the network, the data or the weights.
    """
    settings = dict(config.model)
    for key, value in (("num_classes", num_classes), ("in_channels", config.data.channels)):
        if settings.get(key) is None:
            settings[key] = value
    if settings["num_classes"] < num_classes:
        raise ConfigError(
            f"model.num_classes={settings['num_classes']}, but the data has {num_classes} classes; "
            "leave model.num_classes out"
        )
    if config.model.get("in_channels") is None and not _takes_channels(settings):
        del settings["in_channels"]  # a network of the user's own, for images of one kind
    elif settings["in_channels"] != config.data.channels:
        raise ConfigError(
            f"model.in_channels={settings['in_channels']}, but data.channels={config.data.channels}; "
            "leave model.in_channels out"
        )
    torch.manual_seed(config.seed)
    network: nn.Module = build_component("model", settings if with_weights else without_weights(settings))
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model._target_={settings['_target_']} builds no network; choose one of conf/model")
    if not hasattr(network, "arch"):  # a network without a published name
        network.arch = settings["_target_"].rpartition(".")[2].lower()
    if with_weights and config.weights is not None:
        if is_published(config.weights) and config.augment.input != "standardised":
            raise ConfigError(
                f"augment.input={config.augment.input}, but the published weights are of standardised pixels; "
                "add augment.input=standardised"
            )
        start_from(network, config.weights, kind=config.weights_kind)
    least = getattr(network, "min_image_size", 1)
    if config.input_size.shorter < least:
        raise ConfigError(
            f"image_size={config.image_size} is too small for {type(network).__name__}; use image_size={least} or more"
        )
    return network


def _takes_channels(settings: dict[str, Any]) -> bool:
    parameters = inspect.signature(locate("model", settings.get("_target_"))).parameters
    return "in_channels" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def outline_model(config: Config, *, num_classes: int) -> nn.Module:
    """Build the network without values for its weights (on the meta device): to ask for its names and shapes."""
    with torch.device("meta"):
        return build_model(config, num_classes=num_classes, with_weights=False)
