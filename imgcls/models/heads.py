"""Put weights into a network: the layers that give logits, and a fresh last layer for other classes."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from imgcls.models.fitting import POSITIONS, fit_weights
from imgcls.models.weights import read_weights

log = logging.getLogger(__name__)


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
    """Return True if the parameter `name` belongs to one of the layers `head_names`."""
    return any(name.startswith(f"{head}.") for head in head_names)


def load_into(network: nn.Module, state: Mapping[str, Tensor], source: str, *, new_head: bool = True) -> list[str]:
    """Load weights into a network; if only the number of classes differs, its last layer stays fresh.

    Args:
        new_head: allow another number of classes, which needs a fresh last layer.

    Returns:
        The names of the layers that stay fresh.

    Raises:
        ValueError: the names or shapes of other layers differ; it lists them.
    """
    own = network.state_dict()
    loaded = dict(state)
    for name, value in own.items():
        if name.endswith("num_batches_tracked") and name not in loaded:  # files from before torch 0.4.1
            loaded[name] = value
    own_aux = any(name.lower().startswith("aux") for name in own)
    if not own_aux:  # auxiliary heads serve in training only
        loaded = {name: value for name, value in loaded.items() if not name.lower().startswith("aux")}
    head_names = find_heads(network)
    fresh: set[str] = set()
    for name in list(loaded):
        if new_head and name in own and is_head(name, head_names) and _other_classes(loaded[name], own[name]):
            fresh.add(name.rpartition(".")[0])
    loaded = {name: value for name, value in loaded.items() if name.rpartition(".")[0] not in fresh}
    kept = {name: value for name, value in own.items() if name.rpartition(".")[0] not in fresh}
    missing, unknown = sorted(kept.keys() - loaded.keys()), sorted(loaded.keys() - kept.keys())
    shapes = [
        f"{name} {_shape(loaded[name])} for {_shape(kept[name])}"
        for name in kept
        if name in loaded and loaded[name].shape != kept[name].shape
    ]
    if missing or unknown or shapes:
        raise ValueError(
            f"{source} does not fit {type(network).__name__}: "
            + "; ".join(
                f"{what}: {_first_names(names)}"
                for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
                if names
            )
            + _for_their_size(network, kept, loaded)
        )
    network.load_state_dict(loaded, strict=False)
    return sorted(fresh)


def _for_their_size(network: nn.Module, own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> str:
    """Return the way out where weights are for another image size, and the network cannot resample them."""
    of_places = any(
        any(word in name for word in POSITIONS) and loaded[name].shape != own[name].shape
        for name in own.keys() & loaded.keys()
    )
    if not of_places:
        return ""
    size = (getattr(network, "pretrained_cfg", None) or {}).get("input_size", (3, "SIZE", "SIZE"))[-1]
    option = getattr(network, "size_option", "img_size")
    return f"; they are for another image size: image_size={size} +model.{option}={size} builds the network for it"


def _other_classes(loaded: Tensor, own: Tensor) -> bool:
    return loaded.ndim == own.ndim and loaded.shape[1:] == own.shape[1:] and loaded.shape[0] != own.shape[0]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def start_from(network: nn.Module, source: str, *, kind: str = "average") -> None:
    """Load the weights that `source` names, and log what was found and left out, and which layers are fresh."""
    found = read_weights(source, network, kind=kind)
    state, texts = fit_weights(network, found.state)
    fresh = load_into(network, state, f"weights={source}")
    text = "; ".join([found.text, *texts])
    if auxiliary := sorted({name.partition(".")[0] for name in found.state.keys() - network.state_dict().keys()}):
        text += f"; left out, as this network has none: {', '.join(auxiliary)}"
    log.info("weights  %s: %s%s", source, text, f"; new, for other classes: {', '.join(fresh)}" if fresh else "")


def average_states(states: list[dict[str, Tensor]], names: list[str]) -> dict[str, Tensor]:
    """Return the mean of several checkpoints' weights (Wortsman et al. 2022, "Model soups": the uniform soup).

    Raises:
        ValueError: they are weights of different networks.
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
