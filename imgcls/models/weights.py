"""Read weights: those that torchvision publishes, a file, or a URL.

Our VGG and ResNet name their layers as torchvision does, so its weights load unchanged.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from imgcls.checkpoints import (
    CheckpointError,
    harmless_classes,
    load_checkpoint,
    read_tensors,
    reason_unreadable,
)
from imgcls.models.layers import NoPublishedWeights
from imgcls.models.state_dicts import Found, find_weights
from imgcls.runs import BEST

FIRST_PUBLISHED = "IMAGENET1K_V1"  # what `torchvision` alone means: the weights whose recipe is nearest to the papers'


class UnpublishedError(ValueError):
    """An architecture without weights from torchvision; `remedy` are the overrides that choose one with weights."""

    def __init__(self, reason: str, remedy: Sequence[str]) -> None:
        super().__init__(f"{reason}: {' '.join(remedy)}")
        self.reason = reason
        self.remedy = list(remedy)


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


def published_weights(source: str, network: nn.Module) -> Any:
    """Return which of torchvision's weights `source` names for `network`, as its enumeration has them.

    Raises:
        ValueError: there are none of that name.
    """
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


def read_weights(source: str, network: nn.Module, *, kind: str = "average") -> Found:
    """Read the weights that `source` names; `network` decides which of torchvision's, and by which names.

    Args:
        source: `torchvision`, or `torchvision:IMAGENET1K_V2`, downloaded into torch's cache; a URL, downloaded too;
            a file: a checkpoint of imgcls or another trainer, a state dict as torch saves it, or safetensors; or the
            folder of a run.
        kind: which to take of a file that has both: the `average` of the weights, or the `raw` ones.

    Raises:
        ValueError: the source contains no weights, or cannot be read or downloaded.
        FileNotFoundError: there is no such file.
    """
    if is_published(source):
        content = _download(published_weights(source, network).url, source)
    elif urlparse(source).scheme in ("http", "https", "file"):
        content = _download(source, source)
    else:
        content = _read_file(source)
    return find_weights(content, network.state_dict().keys(), f"weights={source}", kind=kind)


def holds_run(source: str) -> bool:
    """Return True if `source` is a run of imgcls, or a checkpoint of one."""
    if is_published(source) or urlparse(source).scheme in ("http", "https", "file"):
        return False
    if Path(source).expanduser().is_dir():
        return True
    content = _read_file(source)
    return isinstance(content, dict) and "checksum" in content and "config" in content


def _read_file(source: str) -> Any:
    path = Path(source).expanduser()
    path = path / BEST if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"weights={source}: there is no such file; give a file, a URL, or torchvision")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        content = read_tensors(path)
        if isinstance(content, dict) and "checksum" in content:
            content = load_checkpoint(path)
    except CheckpointError as error:
        raise ValueError(f"weights={source}: {error}") from error
    except Exception as error:  # torch raises errors of many kinds for such bytes
        reason = reason_unreadable(error)
        if "Unsupported global" in reason:
            reason += "; where that wrote it, save the weights alone: torch.save(network.state_dict(), FILE)"
        raise ValueError(f"weights={source} cannot be read as weights: {reason}") from error
    return content


def _download(url: str, source: str) -> Any:
    # torch's cache uses the file's name, which two URLs may share; torchvision's names contain a hash.
    tag = hashlib.sha256(url.encode()).hexdigest()[:12]
    name = Path(urlparse(url).path).name if is_published(source) else f"{tag}-{Path(urlparse(url).path).name}"
    try:
        with harmless_classes():
            return torch.hub.load_state_dict_from_url(
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


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"weights={path} needs the package safetensors; install it: pip install safetensors") from None
    try:
        return load_file(str(path))
    except Exception as error:  # the error class of safetensors is not a ValueError
        raise ValueError(f"weights={path} cannot be read as weights: {reason_unreadable(error)}") from error
