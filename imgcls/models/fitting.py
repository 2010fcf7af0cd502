"""Fit weights to a network for other images than theirs: another number of channels, or another size."""

import copy
import sys
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

POSITIONS = (
    "pos_embed",
    "relative_position",
    "rel_pos",
    "attention_bias",
)  # in the names of what a transformer knows of places


class Fitted(NamedTuple):
    """The weights by name, and a text for each thing that was changed in them."""

    state: dict[str, Tensor]
    texts: list[str]


def fit_weights(network: nn.Module, state: Mapping[str, Tensor]) -> Fitted:
    """Return the weights with the shapes of `network`, where the images that they are for explain the difference.

    What cannot be explained so is left as it is.

    Args:
        network: one on the meta device will do.
    """
    fitted, texts = dict(state), []
    name = first_convolution_name(network)
    own = None if name is None else network.get_parameter(name)
    if name is not None and own is not None and name in fitted and _other_channels(fitted[name], own):
        before = fitted[name].shape[1]
        fitted[name] = with_channels(fitted[name], own.shape[1])
        how = "summed" if own.shape[1] == 1 else "repeated"
        texts.append(f"{name} {how} from {before} channel{'s' * (before > 1)} to {own.shape[1]}")
    if _differing(network, fitted):
        resampled = _of_image_size(network, fitted)
        if changed := [each for each in _differing(network, fitted) if each not in _differing(network, resampled)]:
            shown = ", ".join(changed[:2]) + (f" and {len(changed) - 2} more" if changed[2:] else "")
            fitted = resampled
            texts.append(f"resampled for another image size: {shown}")
    return Fitted(fitted, texts)


def first_convolution_name(network: nn.Module) -> str | None:
    """Return the name of the weights of the first convolution, which sees the image; None if there is none."""
    names = (name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    name = next(names, None)
    return None if name is None else f"{name}.weight".lstrip(".")


def with_channels(weight: Tensor, channels: int) -> Tensor:
    """Return kernels (N, C, H, W) for another number of channels, (N, channels, H, W), as timm has them.

    For one channel they are summed: a gray image gives what it gave as three equal channels. For more they are repeated
    in turn and scaled, so that the sum over channels of equal values stays as it was.
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    before = weight.shape[1]
    return weight[:, torch.arange(channels, device=weight.device) % before] * (before / channels)


def _other_channels(weight: Tensor, own: Tensor) -> bool:
    same = weight.ndim == own.ndim == 4 and (*weight.shape[:1], *weight.shape[2:]) == (*own.shape[:1], *own.shape[2:])
    return same and weight.shape[1] in (1, 3) and weight.shape[1] != own.shape[1]


def _differing(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of positions whose shapes are not the network's."""
    own = network.state_dict()
    return [
        name
        for name, value in state.items()
        if any(word in name for word in POSITIONS) and (name not in own or own[name].shape != value.shape)
    ]


def _of_image_size(network: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as the network's library resamples them for its image size; as they are where it cannot."""
    package = type(network).__module__.partition(".")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the libraries' own use of torch
        return _resampled(network, state, package)


def _resampled(network: Any, state: dict[str, Tensor], package: str) -> dict[str, Tensor]:
    try:
        if package == "torchvision" and "encoder.pos_embedding" in state:
            from torchvision.models.vision_transformer import interpolate_embeddings

            return dict(interpolate_embeddings(network.image_size, network.patch_size, copy.copy(state)))  # type: ignore[arg-type]
        resample = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if package == "timm" and resample is not None:
            return dict(resample(dict(state), network))
    except (ValueError, RuntimeError, AttributeError, KeyError, TypeError):
        pass  # the shapes then differ, which is an error that lists them
    return state
