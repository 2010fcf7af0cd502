"""Crops by one word, augment.eval_crop=letterbox: the word swaps the crop, and its own settings may stand beside it.

Hydra sets one key after another: it would read the settings of the new crop before there is one, or keep the old one's.
So words that swap a crop count first, wherever they stand.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from imgcls.errors import ConfigError, did_you_mean

CROP_PLUGS = ("augment.crop", "augment.eval_crop")
# Each has the settings of its paper by default.
CROPS = {
    "center": "CenterCrop",
    "whole": "Whole",
    "letterbox": "Letterbox",
    "random_resized": "RandomResizedCrop",
    "scale_jitter": "ScaleJitterCrop",
    "resize_random": "ResizeRandomCrop",
    "pad": "Pad",
    "pad_random": "PadCrop",
}


def crop_by_name(key: str, node: Any) -> Any:
    """Return the settings of the crop that the plug `key` names by one word; anything else as it is.

    Raises:
        ConfigError: no crop has that name.
    """
    if not isinstance(node, str):
        return node
    if node not in CROPS:
        raise ConfigError(f"{key}={node}: there is no such crop{did_you_mean(node, CROPS)}; one of {', '.join(CROPS)}")
    return {"_target_": f"imgcls.data.augment.{CROPS[node]}"}


def name_of_crop(node: dict[str, Any]) -> str:
    """Return the word for a crop with its settings: `center-short_side=224`."""
    kind = str(node["_target_"]).rpartition(".")[2]
    name = next((name for name, known in CROPS.items() if known == kind), kind)
    return "-".join([name, *(f"{key}={value}" for key, value in node.items() if key != "_target_")])


def apply_overrides(
    overrides: Sequence[Override], cfg: DictConfig, apply: Callable[[list[Override], DictConfig], None]
) -> None:
    """Apply overrides by Hydra's `apply`, those first that swap a crop, whose other words are settings of the new one.

    Raises:
        ConfigError: no crop has a name that is given.
    """
    swaps = [(override, plug) for override in overrides if (plug := _swapped_plug(override))]
    nodes = {plug: OmegaConf.select(cfg, plug, throw_on_missing=False) for plug in CROP_PLUGS}
    swapped: dict[str, Any] = {plug: node for plug, node in nodes.items() if isinstance(node, str)}  # by a file
    for override, plug in swaps:
        by_class = override.key_or_group != plug
        swapped[plug] = {"_target_": override.value()} if by_class else override.value()
    for plug, node in swapped.items():
        OmegaConf.update(cfg, plug, crop_by_name(plug, node), merge=False)
    for override in overrides:
        key = str(override.key_or_group)
        if any(override is swap for swap, _ in swaps):
            continue
        if key.rpartition(".")[0] in swapped and not override.is_delete():
            # The signature of its class says later which settings it takes.
            OmegaConf.update(cfg, key, override.value(), merge=True, force_add=True)
        else:
            apply([override], cfg)


def _swapped_plug(override: Override) -> str | None:
    key = override.key_or_group
    if override.is_delete() or override.is_sweep_override() or not isinstance(override.value(), str):
        return None
    return next((plug for plug in CROP_PLUGS if key in (plug, f"{plug}._target_")), None)
