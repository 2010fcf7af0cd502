"""The groups of parameters that the optimizer gets: which decay, and which lr each has."""

import math
from typing import Any

from torch import nn

from imgcls.config import Config, flatten
from imgcls.models import find_heads, is_head
from imgcls.training.freezing import check_layers, frozen_layers, is_inside
from imgcls.training.optim import parameter_groups


def lr_scale(config: Config) -> float:
    """Return the factor on the recipe's lr, mostly for a batch of another size."""
    if not isinstance(config.lr_scaling, str):
        return config.lr_scaling
    ratio = config.batch_size / config.recipe.batch_size
    # auto that is still open belongs to a batch size that somebody chose, not the number of images.
    return {"auto": 1.0, "none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.lr_scaling]


def optimizer_groups(config: Config, network: nn.Module) -> list[dict[str, Any]]:
    """Return the parameters that learn, now or once they are unfrozen, in groups by weight decay and lr.

    The groups whose lr is the optimizer's come first: theirs is what is logged.
    """
    frozen = frozen_layers(config, network)
    for_good = {
        id(parameter)
        for name, parameter in network.named_parameters()
        if frozen(name) and config.unfreeze_after_epochs is None
    }
    groups = parameter_groups(network, decay_norms_and_biases=config.decay_norms_and_biases)
    groups = [{**group, "params": [p for p in group["params"] if id(p) not in for_good]} for group in groups]
    factors = lr_factors(config, network)
    if set(factors.values()) == {1.0}:
        return [group for group in groups if group["params"]]
    factor_of = {id(parameter): factors[name] for name, parameter in network.named_parameters()}
    lr = config.optimizer["lr"] * lr_scale(config)
    split = [
        {**group, "params": [p for p in group["params"] if factor_of[id(p)] == factor], "lr": lr * factor}
        for factor in sorted(set(factors.values()), key=lambda factor: (abs(math.log(factor)), factor))
        for group in groups
    ]
    return [group for group in split if group["params"]]


def lr_factors(config: Config, network: nn.Module) -> dict[str, float]:
    """Return the factor on lr of each parameter: the product of those of its depth, its layer, and the last layer.

    Raises:
        ConfigError: the network has no layer of a name in `lr_factors`.
    """
    of_layer = flatten(config.lr_factors or {})
    check_layers("lr_factors", list(of_layer), network)
    names = [name for name, _ in network.named_parameters()]
    heads, depths = (
        find_heads(network),
        layer_depths(network) if config.layer_lr_decay != 1 else dict.fromkeys(names, 0),
    )
    factors = {}
    for name in names:
        inside = [prefix for prefix in of_layer if is_inside(name, prefix)]
        factors[name] = config.layer_lr_decay ** depths[name]
        factors[name] *= of_layer[max(inside, key=len)] if inside else 1.0
        factors[name] *= config.head_lr_factor if is_head(name, heads) else 1.0
    return factors


def layer_depths(network: nn.Module) -> dict[str, int]:
    """Return how many blocks after each parameter there are, 0 for the last block, which is the last layer.

    An lr that falls with the depth (Howard & Ruder 2018, section 3.2) goes by blocks, as for transformers (Bao et al.
    2022): what is in a list of layers, as layer1.0 or encoder.layers.3, or else a part of the network itself. A norm
    belongs to the block before it, and what is in no block, as an embedding of positions, to the first one.
    """
    blocks: list[list[str]] = []
    for name in _blocks(network, ""):
        module = network.get_submodule(name)
        is_norm = next(module.children(), None) is None and all(each.ndim < 2 for each in module.parameters())
        if is_norm and blocks:
            blocks[-1].append(name)
        else:
            blocks.append([name])
    depths = {}
    for name, _ in network.named_parameters():
        inside = [place for place, layers in enumerate(blocks) if any(is_inside(name, layer) for layer in layers)]
        depths[name] = len(blocks) - 1 - (inside[0] if inside else 0)
    return depths


def _blocks(module: nn.Module, prefix: str) -> list[str]:
    blocks = []
    for name, child in module.named_children():
        if next(child.parameters(), None) is None:
            continue
        path = f"{prefix}{name}"
        opened = _is_list(child) or (not prefix and _holds_list_of_blocks(child))
        blocks += _blocks(child, f"{path}.") if opened else [path]
    return blocks


def _is_list(module: nn.Module) -> bool:
    # Not of a kind made from one of these, which is a block: a convolution with its norm.
    return type(module) in (nn.Sequential, nn.ModuleList)


def _holds_list_of_blocks(module: nn.Module) -> bool:
    for part in module.modules():
        kinds = [type(child) for child in part.children() if next(child.children(), None) is not None]
        if _is_list(part) and any(kinds.count(kind) >= 3 for kind in kinds):
            return True
    return False
