"""Weights from elsewhere: published ones, a file, a URL; and the layer that is new where the classes are others.

Our VGG and ResNet name their layers as torchvision does, so its published weights go in as they are.
"""

import hashlib
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from imgcls.checkpoints import CheckpointError, load_checkpoint

log = logging.getLogger(__name__)
FIRST_PUBLISHED = "IMAGENET1K_V1"  # what `torchvision` alone means: the weights by the recipe nearest to the papers'
VGG_COLUMNS = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}


class UnpublishedError(ValueError):
    """An architecture that torchvision publishes no weights of; `remedy` are the overrides that make it one it has."""

    def __init__(self, reason: str, remedy: Sequence[str]) -> None:
        super().__init__(f"{reason}: {' '.join(remedy)}")
        self.reason = reason
        self.remedy = list(remedy)


class PublishedInput(NamedTuple):
    """What published weights expect: a centre crop of image_size after the shorter side is resized to short_side."""

    image_size: int
    short_side: int


def published_arch(model: Mapping[str, Any]) -> str:
    """Return torchvision's name of the architecture that the config `model` builds.

    Raises:
        ValueError: torchvision has none of the same architecture.
    """
    name = str(model["_target_"]).rpartition(".")[2]
    if name == "torchvision_model":
        return str(model["arch"])
    if name == "ResNet":
        depth = model.get("depth", 50)
        if depth >= 50 and not model.get("stride_in_3x3"):
            raise UnpublishedError(
                f"weights=torchvision: the published resnet{depth} halves its maps in the 3x3 (v1.5), the paper's in "
                "the 1x1 before; add",
                ["model.stride_in_3x3=true"],
            )
        return f"resnet{depth}"
    if name == "VGG" and model.get("column", "D") in VGG_COLUMNS:
        return VGG_COLUMNS[model.get("column", "D")] + ("_bn" if model.get("batch_norm") else "")
    reason = f"weights=torchvision: torchvision publishes none for this {name}"
    if name in ("AlexNet", "GoogLeNet"):
        remedy = ["model=torchvision", f"model.arch={name.lower()}"]
        raise UnpublishedError(f"{reason}; its own is another network", remedy)
    raise UnpublishedError(
        f"{reason}; it has VGG-11, 13, 16, 19 and ResNet, and all its own through", ["model=torchvision"]
    )


def _published(source: str, model: Mapping[str, Any]) -> Any:
    arch = published_arch(model)
    wanted = source.partition(":")[2] or FIRST_PUBLISHED
    import torchvision  # here: it takes a second that other networks need not wait for

    known = torchvision.models.get_model_weights(arch).__members__
    if wanted not in known:
        raise ValueError(f"weights={source} is not published for {arch}; use torchvision:NAME with {', '.join(known)}")
    return known[wanted]


def is_published(source: str) -> bool:
    return source.partition(":")[0] == "torchvision"


def published_name(source: str) -> str | None:
    """Return which of an architecture's published weights `source` names, as IMAGENET1K_V1; None for other weights."""
    return (source.partition(":")[2] or FIRST_PUBLISHED) if is_published(source) else None


def published_input(source: str, model: Mapping[str, Any]) -> PublishedInput:
    """Return the input that `weights=torchvision` was published with."""
    transform = _published(source, model).transforms()
    return PublishedInput(transform.crop_size[0], transform.resize_size[0])


def read_weights(source: str, model: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the weights that `source` names, for the network that the config `model` builds.

    Args:
        source: `torchvision`, or `torchvision:IMAGENET1K_V2`, downloaded into torch's cache; a URL, the same; or a
            file: a checkpoint of imgcls, a state dict as torch saves it, or safetensors.

    Raises:
        ValueError: it holds no weights, or cannot be had.
        FileNotFoundError: there is no such file.
    """
    if is_published(source):
        return _download(_published(source, model).url, source)
    if urlparse(source).scheme in ("http", "https", "file"):
        return _download(source, source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"weights={source}: there is no such file; give a file, a URL, or torchvision")
    if path.suffix == ".safetensors":
        return state_dict_of(_safetensors(path), source)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and "checksum" in content:
            content = load_checkpoint(path)
    except CheckpointError as error:
        raise ValueError(f"weights={source}: {error}") from error
    except Exception as error:  # what torch makes of bytes that are no weights has no one name
        raise ValueError(f"weights={source} cannot be read as weights: {_reason(error)}") from error
    return state_dict_of(content, source)


def _reason(error: Exception) -> str:
    # torch opens with the advice to load with weights_only=False, which would run what the file holds.
    if unsupported := re.search(r"Unsupported (?:global: GLOBAL|class|operand) \S+", str(error)):
        return f"it holds more than tensors and plain values ({unsupported.group()})"
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or no file of torch.save"
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'it ends too early')}"


def state_dict_of(content: Any, source: str) -> dict[str, Tensor]:
    """Find the tensors in what a file held: a state dict, or one below the usual keys.

    Raises:
        ValueError: there are none.
    """
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights={source} holds no state dict: a file of named tensors, as torch.save makes of one")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _download(url: str, source: str) -> dict[str, Tensor]:
    # torch's cache goes by the file's name, which two URLs may share; torchvision's own files have a hash in theirs.
    tag = hashlib.sha256(url.encode()).hexdigest()[:12]
    name = Path(urlparse(url).path).name if is_published(source) else f"{tag}-{Path(urlparse(url).path).name}"
    try:
        content = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, weights_only=True, file_name=name
        )
    except OSError as error:
        raise ValueError(
            f"weights={source}: {url} cannot be had ({_reason(error)}); download it elsewhere and name the file: "
            "weights=FILE"
        ) from error
    except Exception as error:  # what torch makes of bytes that are no weights has no one name
        cached = Path(torch.hub.get_dir()) / "checkpoints" / name
        raise ValueError(
            f"weights={source}: what came from {url} cannot be read as weights ({_reason(error)}); it is kept as "
            f"{cached}: delete that to load it again"
        ) from error
    return state_dict_of(content, source)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"weights={path} needs the package safetensors; install it: pip install safetensors") from None
    try:
        return load_file(str(path))
    except Exception as error:  # safetensors' own error is no ValueError
        raise ValueError(f"weights={path} cannot be read as weights: {_reason(error)}") from error


def find_heads(network: nn.Module) -> list[str]:
    """Return the names of the layers that give logits: the last linear one (or 1x1 convolution), and auxiliary ones."""
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    ]
    main = [name for name in layers if not name.lower().startswith("aux")]
    auxiliary: dict[str, str] = {}
    for name in layers:
        if name.lower().startswith("aux"):
            auxiliary[name.split(".")[0]] = name  # the last one of each head
    return [*main[-1:], *auxiliary.values()]


def is_head(name: str, head_names: list[str]) -> bool:
    """Tell whether the parameter `name` belongs to one of the layers `head_names`."""
    return any(name.startswith(f"{head}.") for head in head_names)


def load_into(network: nn.Module, state: Mapping[str, Tensor], source: str, *, new_head: bool = True) -> list[str]:
    """Put weights into a network; where only the number of classes differs, its last layer stays as it is (fresh).

    Args:
        new_head: false refuses another number of classes too.

    Returns:
        The names of the layers that were left fresh.

    Raises:
        ValueError: the names or shapes of other layers differ; it lists them.
    """
    own = network.state_dict()
    given = dict(state)
    for name, value in own.items():
        if name.endswith("num_batches_tracked") and name not in given:  # files from before torch 0.4.1
            given[name] = value
    own_aux = any(name.lower().startswith("aux") for name in own)
    if not own_aux:  # auxiliary heads serve in training only
        given = {name: value for name, value in given.items() if not name.lower().startswith("aux")}
    head_names = find_heads(network)
    fresh: set[str] = set()
    for name in list(given):
        if new_head and name in own and is_head(name, head_names) and _other_classes(given[name], own[name]):
            fresh.add(name.rpartition(".")[0])
    given = {name: value for name, value in given.items() if name.rpartition(".")[0] not in fresh}
    kept = {name: value for name, value in own.items() if name.rpartition(".")[0] not in fresh}
    missing, unknown = sorted(kept.keys() - given.keys()), sorted(given.keys() - kept.keys())
    shapes = [
        f"{name} {_shape(given[name])} for {_shape(kept[name])}"
        for name in kept
        if name in given and given[name].shape != kept[name].shape
    ]
    if missing or unknown or shapes:
        raise ValueError(
            f"{source} does not fit {type(network).__name__}: "
            + "; ".join(
                f"{what}: {_first_names(names)}"
                for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
                if names
            )
        )
    network.load_state_dict(given, strict=False)
    return sorted(fresh)


def _other_classes(given: Tensor, own: Tensor) -> bool:
    return given.ndim == own.ndim and given.shape[1:] == own.shape[1:] and given.shape[0] != own.shape[0]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def start_from(network: nn.Module, source: str, model: Mapping[str, Any]) -> None:
    """Begin training from weights, and say what became of the last layer."""
    fresh = load_into(network, read_weights(source, model), f"weights={source}")
    if fresh:
        log.info("weights  %s; new, for other classes: %s", source, ", ".join(fresh))
    else:
        log.info("weights  %s", source)


def freeze_backbone(network: nn.Module) -> None:
    """Leave only the last layer to train; the batch norms below it keep their statistics."""
    head_names = find_heads(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(is_head(name, head_names))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(_stay_in_eval)


def _stay_in_eval(module: nn.Module, inputs: object) -> None:
    # The loop puts the whole network into training mode; a frozen layer must not follow.
    del inputs
    module.eval()


def average_states(states: list[dict[str, Tensor]], names: list[str]) -> dict[str, Tensor]:
    """Return the mean of several checkpoints' weights (Wortsman et al. 2022, "Model soups": the uniform soup).

    Raises:
        ValueError: they are not of one network.
    """
    for state, name in zip(states[1:], names[1:], strict=True):
        differing = [key for key in states[0] if key not in state or state[key].shape != states[0][key].shape]
        differing += [key for key in state if key not in states[0]]
        if differing:
            raise ValueError(
                f"average=weights: {name} is not of the same network as {names[0]}: {_first_names(differing)} differ; "
                "average=softmax takes any"
            )
    return {
        key: torch.stack([state[key].double() for state in states]).mean(dim=0).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in states[0].items()
    }
