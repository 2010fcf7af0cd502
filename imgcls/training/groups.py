"""The groups of parameters that the optimizer gets: which decay, and which have an lr of their own."""

import math
from typing import Any

from torch import nn

from imgcls.config import Config
from imgcls.models import find_heads, is_head
from imgcls.training.optim import parameter_groups


def lr_scale(config: Config) -> float:
    """Return the factor on the recipe's lr for a batch of another size."""
    ratio = config.batch_size / config.recipe.batch_size
    # auto that is still open belongs to a batch size that somebody chose, not the number of images.
    return {"auto": 1.0, "none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.lr_scaling]


def optimizer_groups(config: Config, network: nn.Module) -> list[dict[str, Any]]:
    """Return the parameters that learn, in groups with the settings that differ from the optimizer's."""
    groups = parameter_groups(network, decay_norms_and_biases=config.decay_norms_and_biases)
    if config.head_lr_factor != 1 or config.head_only_epochs:
        groups = split_head(network, groups, lr=config.optimizer["lr"] * lr_scale(config) * config.head_lr_factor)
    return groups


def split_head(network: nn.Module, groups: list[dict[str, Any]], *, lr: float) -> list[dict[str, Any]]:
    """Split the last layer's parameters off into groups with `lr` and the mark `is_head`."""
    names = find_heads(network)
    head = {id(parameter) for name, parameter in network.named_parameters() if is_head(name, names)}
    of_head = {"lr": lr, "is_head": True}
    split = [
        *({**group, "params": [p for p in group["params"] if id(p) not in head]} for group in groups),
        *({**group, "params": [p for p in group["params"] if id(p) in head], **of_head} for group in groups),
    ]
    return [group for group in split if group["params"]]
