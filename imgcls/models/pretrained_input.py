"""The input that pretrained weights expect: what torchvision and timm publish beside them, as settings of a config.

A run that begins with such weights, and a test of them, takes these settings in place of the data set's and the
recipe's; what the command line sets stays.
"""

import copy
import json
import math
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

from torch import nn

from imgcls.config import Config, ImageSize, is_given, select, set_setting
from imgcls.models.external import published, timm_model, torchvision_model
from imgcls.models.weights import UnpublishedError, holds_run, is_published, published_arch, published_weights

CROPS = "imgcls.data.augment."
IMAGE_SIZE = "image_size"
SIZE_OPTIONS = ("img_size", "image_size")  # of timm's and torchvision's transformers


class PretrainedInput(NamedTuple):
    """What the images of pretrained weights were.

    Attributes:
        weights: their name, for the log.
        image_size: height and width.
        short_side: of the whole image, once resized, of which the centre is cropped.
        crop_mode: center; squash: the whole image in that shape; border: the whole image, padded.
    """

    weights: str
    image_size: ImageSize
    short_side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_mode: str = "center"

    def settings(self, channels: int) -> dict[str, Any]:
        """Return the settings that show images of so many channels as these were, by their keys."""
        crops = {
            "center": {
                "_target_": f"{CROPS}CenterCrop",
                "short_side": self.short_side,
                "at_image_size": self.image_size.shorter,
            },
            "squash": {"_target_": f"{CROPS}Whole"},
            "border": {"_target_": f"{CROPS}Letterbox"},
        }
        return {
            IMAGE_SIZE: self.image_size.setting,
            "data.mean": _for_channels(self.mean, channels),
            "data.std": _for_channels(self.std, channels),
            "augment.input": "standardised",
            "augment.interpolation": self.interpolation,
            "augment.eval_crop": crops[self.crop_mode],
        }


def pretrained_input(config: Config, network: nn.Module, *, for_test: bool = False) -> PretrainedInput | None:
    """Return the input of the weights that the network of a run begins with; None if nothing is known of it.

    Args:
        network: built of `config`; an outline will do.
        for_test: the size and crop of tests, where timm has others than those of training.
    """
    settings, source = config.model, config.weights
    name = str(settings["_target_"]).rpartition(".")[2]
    if name == timm_model.__name__:
        begins_trained = settings.get("pretrained") or settings.get("checkpoint_path")
        if not begins_trained and (source is None or holds_run(source)):
            return None
        return _of_timm(getattr(network, "pretrained_cfg", None) or {}, for_test=for_test)
    if source is not None:
        return _of_torchvision(source, network)
    if name == torchvision_model.__name__ and settings.get("weights") is not None:
        return _from_transform(published(settings["arch"], settings["weights"]))
    return None


def take_input(config: Config, expected: PretrainedInput, *, for_test: bool = False) -> tuple[Config, dict[str, Any]]:
    """Return the config with the input that its weights expect, and what was changed: by key, before and now.

    What the command line gave stays, and in training the image size that a tiny data set brings.
    """
    config, changes = copy.deepcopy(config), {}
    for key, value in expected.settings(config.data.channels).items():
        brought = key == IMAGE_SIZE and not for_test and config.data.scale.image_size is not None
        if key == IMAGE_SIZE:  # that which a transformer is built for, where it is named
            value = next((config.model[name] for name in SIZE_OPTIONS if config.model.get(name)), value)
        before = select(config, key)
        if brought or is_given(config, key) or _plain(before) == _plain(value):
            continue
        set_setting(config, key, value)
        changes[key] = [before, value]
    return config, changes


def describe_input(expected: PretrainedInput, changes: dict[str, Any]) -> str:
    """Return a line for the log: which settings are those of the weights."""
    words = [
        f"augment.eval_crop={_crop_words(now)}" if key == "augment.eval_crop" else f"{key}={_plain(now)}"
        for key, (_, now) in changes.items()
    ]
    text = ", ".join(words).replace('"', "")
    return f"{expected.weights}: {text}"


def _crop_words(crop: dict[str, Any]) -> str:
    name = crop["_target_"].removeprefix(CROPS)
    return f"{name} of {crop['at_image_size']} px from {crop['short_side']}" if "short_side" in crop else name


def _plain(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, sort_keys=True, default=str).replace(" ", "")


def _for_channels(values: tuple[float, ...], channels: int) -> list[float]:
    if len(values) in (1, channels):
        return [float(value) for value in values]
    return [round(sum(values) / len(values), 6)] * channels  # of gray images: the mean over the colours


def _of_torchvision(source: str, network: nn.Module) -> PretrainedInput | None:
    if is_published(source):
        return _from_transform(published_weights(source, network))
    try:
        arch = published_arch(network)
    except UnpublishedError:
        return None
    import torchvision

    file = Path(urlparse(source).path).name  # which has a part of its checksum
    known = torchvision.models.get_model_weights(arch)
    return next((_from_transform(each) for each in known if Path(urlparse(each.url).path).name == file), None)


def _from_transform(weights: Any) -> PretrainedInput:
    transform = weights.transforms()
    arch = weights.url.rpartition("/")[2].partition("-")[0]
    return PretrainedInput(
        f"torchvision's {weights.name} of {arch}",
        ImageSize.of(transform.crop_size[0]),
        transform.resize_size[0],
        tuple(transform.mean),
        tuple(transform.std),
        transform.interpolation.value,
    )


def _of_timm(cfg: dict[str, Any], *, for_test: bool) -> PretrainedInput | None:
    if "mean" not in cfg or "input_size" not in cfg:
        return None
    size, share = cfg["input_size"], cfg.get("crop_pct") or 1.0
    if for_test and not cfg.get("fixed_input_size"):
        size = cfg.get("test_input_size") or size
        share = cfg.get("test_crop_pct") or share
    image_size = ImageSize(*size[1:])
    tag = f".{cfg['tag']}" if cfg.get("tag") else ""
    return PretrainedInput(
        f"timm's {cfg.get('architecture', 'network')}{tag}",
        image_size,
        math.floor(image_size.shorter / share),
        tuple(cfg["mean"]),
        tuple(cfg["std"]),
        cfg.get("interpolation") or "bicubic",
        cfg.get("crop_mode") or "center",
    )
