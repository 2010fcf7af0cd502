"""Read weights: those that torchvision publishes, a file, or a URL.

Our VGG and ResNet name their layers as torchvision does, so its weights load unchanged.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from imgcls.checkpoints import CheckpointError, has_own_values, load_checkpoint, read_tensors, reason_unreadable
from imgcls.models.layers import NoPublishedWeights

FIRST_PUBLISHED = "IMAGENET1K_V1"  # what `torchvision` alone means: the weights whose recipe is nearest to the papers'


class UnpublishedError(ValueError):
    """An architecture without weights from torchvision; `remedy` are the overrides that choose one with weights."""

    def __init__(self, reason: str, remedy: Sequence[str]) -> None:
        super().__init__(f"{reason}: {' '.join(remedy)}")
        self.reason = reason
        self.remedy = list(remedy)


class PublishedInput(NamedTuple):
    """What published weights expect: a centre crop of image_size after the shorter side is resized to short_side."""

    image_size: int
    short_side: int


def published_arch(network: nn.Module) -> str:
    """Return torchvision's name of the architecture, whose weights fit `network`.

    Raises:
        UnpublishedError: torchvision publishes no weights that fit it.
    """
    name = type(network).__name__
    nothing = NoPublishedWeights(
        f"torchvision publishes none for this {name}; it has VGG-11, 13, 16, 19, ResNet, and its own networks",
        ("model=torchvision",),
    )
    unpublished = getattr(network, "unpublished", nothing)
    if unpublished is not None:
        raise UnpublishedError(f"weights=torchvision: {unpublished.reason}", unpublished.overrides)
    return str(network.arch)


def _published(source: str, network: nn.Module) -> Any:
    arch = published_arch(network)
    wanted = source.partition(":")[2] or FIRST_PUBLISHED
    import torchvision  # here: it takes a second, which other networks need not wait for

    known = torchvision.models.get_model_weights(arch).__members__
    if wanted not in known:
        raise ValueError(f"weights={source} is not published for {arch}; use torchvision:NAME with {', '.join(known)}")
    return known[wanted]


def is_published(source: str) -> bool:
    """Return True if `source` names weights that torchvision publishes."""
    return source.partition(":")[0] == "torchvision"


def published_name(source: str) -> str | None:
    """Return which of an architecture's published weights `source` names, as IMAGENET1K_V1; None for other weights."""
    return (source.partition(":")[2] or FIRST_PUBLISHED) if is_published(source) else None


def published_input(source: str, network: nn.Module) -> PublishedInput:
    """Return the input that the published weights `source` of `network` were trained and tested on."""
    transform = _published(source, network).transforms()
    return PublishedInput(transform.crop_size[0], transform.resize_size[0])


def read_weights(source: str, network: nn.Module) -> dict[str, Tensor]:
    """Read the weights that `source` names; `network` decides which of torchvision's.

    Args:
        source: `torchvision`, or `torchvision:IMAGENET1K_V2`, downloaded into torch's cache; a URL, downloaded too; or
            a file: a checkpoint of imgcls, a state dict as torch saves it, or safetensors.

    Raises:
        ValueError: the source contains no weights, or cannot be read or downloaded.
        FileNotFoundError: there is no such file.
    """
    if is_published(source):
        return _download(_published(source, network).url, source)
    if urlparse(source).scheme in ("http", "https", "file"):
        return _download(source, source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"weights={source}: there is no such file; give a file, a URL, or torchvision")
    if path.suffix == ".safetensors":
        return state_dict_of(_safetensors(path), source)
    try:
        content = read_tensors(path)
        if isinstance(content, dict) and "checksum" in content:
            content = load_checkpoint(path)
    except CheckpointError as error:
        raise ValueError(f"weights={source}: {error}") from error
    except Exception as error:  # torch raises errors of many kinds for such bytes
        raise ValueError(f"weights={source} cannot be read as weights: {reason_unreadable(error)}") from error
    return state_dict_of(content, source)


def state_dict_of(content: Any, source: str) -> dict[str, Tensor]:
    """Return the tensors in the content of a file: a state dict, or one below the usual keys.

    Raises:
        ValueError: there are none.
    """
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights={source} holds no state dict: a file of named tensors, as torch.save makes of one")
    for name, value in content.items():
        if not has_own_values(value):
            raise ValueError(f"weights={source}: {name} {tuple(value.shape)} is no plain tensor: it claims more values")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _download(url: str, source: str) -> dict[str, Tensor]:
    # torch's cache uses the file's name, which two URLs may share; torchvision's names contain a hash.
    tag = hashlib.sha256(url.encode()).hexdigest()[:12]
    name = Path(urlparse(url).path).name if is_published(source) else f"{tag}-{Path(urlparse(url).path).name}"
    try:
        content = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, weights_only=True, file_name=name
        )
    except OSError as error:
        raise ValueError(
            f"weights={source}: {url} cannot be had ({reason_unreadable(error)}); download it elsewhere and name the "
            "file: weights=FILE"
        ) from error
    except Exception as error:  # torch raises errors of many kinds for such bytes
        cached = Path(torch.hub.get_dir()) / "checkpoints" / name
        raise ValueError(
            f"weights={source}: what came from {url} cannot be read as weights ({reason_unreadable(error)}); it is "
            f"kept as {cached}: delete that to load it again"
        ) from error
    return state_dict_of(content, source)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"weights={path} needs the package safetensors; install it: pip install safetensors") from None
    try:
        return load_file(str(path))
    except Exception as error:  # the error class of safetensors is not a ValueError
        raise ValueError(f"weights={path} cannot be read as weights: {reason_unreadable(error)}") from error
