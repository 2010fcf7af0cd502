"""Find a network's weights in the content of a file, whoever saved it: below which key, under which prefixes."""

from collections.abc import Collection
from typing import Any, NamedTuple

from torch import Tensor

from imgcls.checkpoints import has_own_values

# Where trainers keep the weights: imgcls, torchvision's references, timm, DeiT, Lightning, and most scripts.
RAW = ("model", "state_dict", "model_state_dict", "model_state", "network", "net", "module", "weights", "params")
AVERAGE = ("average", "model_ema", "state_dict_ema", "ema", "ema_state_dict", "ema_model", "params_ema")
LIGHTNING_RAW = "current_model_state"  # beside it, Lightning's state_dict is the average
NO_NETWORK = ("optim", "sched", "scaler")  # in the keys of other tensors that training keeps
# What wraps a module and renames its weights: DistributedDataParallel and AveragedModel; torch.compile.
WRAPPERS = ("module", "_orig_mod")


class Found(NamedTuple):
    """The weights of a network by its own names, and a text that says where they were and what was left out."""

    state: dict[str, Tensor]
    text: str


def find_weights(content: Any, own: Collection[str], source: str, *, kind: str = "average") -> Found:
    """Return the weights in the content of a file.

    Args:
        own: the names of the network's own weights, which tell a prefix from a part of a name.
        source: names the file in errors.
        kind: which to take where there are both: `average` or `raw`.

    Raises:
        ValueError: there are none, or there are several networks.
    """
    kinds = _by_kind(content)
    if not kinds:
        keys = f"; it has {', '.join(map(str, list(content)[:8]))}" if isinstance(content, dict) and content else ""
        raise ValueError(f"{source} holds no state dict: a file of named tensors, as torch.save makes of one{keys}")
    taken = kind if kind in kinds else next(iter(kinds))
    key, state = kinds[taken]
    texts = [_which(kinds, taken, kind)] if len(kinds) > 1 or taken == "average" else [f"below {key}"] * bool(key)
    for name, value in state.items():
        if isinstance(value, Tensor) and not has_own_values(value):
            raise ValueError(f"{source}: {name} {tuple(value.shape)} is no plain tensor: it claims more values")
    return _with_own_names(state, set(own), source, kind=kind, texts=texts)


def _which(kinds: dict[str, tuple[str, Any]], taken: str, asked: str) -> str:
    names = {"average": "the average of the weights", "raw": "the raw weights"}
    text = f"{names[taken]} ({kinds[taken][0]})"
    for other in kinds.keys() - {taken}:
        return f"{text}, not {names[other]} ({kinds[other][0]}; weights_kind={other})"
    return text if taken == asked else f"{text}, as there are no others"


def _by_kind(content: Any, *, depth: int = 4) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the state dicts in a file by their kind, each with the key that it is below."""
    if not isinstance(content, dict) or depth == 0:  # a file can hold a dict that holds itself
        return {}
    if _is_state(content):
        return {"raw": ("", content)}
    kinds: dict[str, tuple[str, dict[str, Any]]] = {}
    swapped = _is_state(content.get(LIGHTNING_RAW))
    average, raw = (("state_dict",), (LIGHTNING_RAW,)) if swapped else (AVERAGE, RAW)
    for kind, keys in (("raw", raw), ("average", average)):
        for key in keys:
            inside = _by_kind(content.get(key), depth=depth - 1)
            if inside and kind not in kinds:
                below, state = inside.get(kind) or next(iter(inside.values()))
                kinds[kind] = (f"{key}.{below}" if below else key, state)
    if not kinds:
        others = [key for key in content if not any(word in str(key) for word in NO_NETWORK)]
        found = {key: inside for key in others if (inside := _by_kind(content[key], depth=depth - 1))}
        if len(found) == 1:
            ((outer, inside),) = found.items()
            return {kind: (f"{outer}.{key}" if key else str(outer), state) for kind, (key, state) in inside.items()}
    return kinds


def _is_state(node: Any) -> bool:
    if not isinstance(node, dict) or not all(isinstance(name, str) for name in node):
        return False
    weights = [value for name, value in node.items() if not name.endswith("_extra_state")]
    return bool(weights) and all(isinstance(value, Tensor) for value in weights)


def _with_own_names(state: dict[str, Any], own: set[str], source: str, *, kind: str, texts: list[str]) -> Found:
    """Return the weights by the network's own names: without wrappers in any order, and without a prefix."""
    wrappers = [word for word in WRAPPERS if not any(word in name.split(".") for name in own)]
    renamed: dict[str, Tensor] = {}
    left_out: list[str] = []
    removed: dict[str, None] = {}  # in the order in which they are found
    for name, value in state.items():
        # The number of weights that an AveragedModel has seen, and what quantised layers keep, are no weights.
        if not isinstance(value, Tensor) or (name.endswith("n_averaged") and name not in own):
            left_out.append(name)
            continue
        parts = name.split(".")
        removed |= dict.fromkeys(part for part in parts if part in wrappers)
        plain = ".".join(part for part in parts if part not in wrappers)
        if plain in renamed:
            raise ValueError(
                f"{source} has {plain} twice, once inside {' or '.join(removed)}; save one of the two alone"
            )
        renamed[plain] = value
    prefix, other = _prefix(renamed, own, source, kind=kind)
    if other:
        taken = "average" if any(part in AVERAGE for part in prefix.split(".")) else "raw"
        not_taken = "raw" if taken == "average" else "average"
        texts.append(_which({taken: (f"{prefix}.", None), not_taken: (f"{other}.", None)}, taken, kind))
        renamed = {name: value for name, value in renamed.items() if not name.startswith(f"{other}.")}
    if prefix:
        removed[prefix] = None
        left_out += [name for name in renamed if not name.startswith(f"{prefix}.")]
        renamed = {name.removeprefix(f"{prefix}."): value for name, value in renamed.items() if name not in left_out}
    if removed:
        texts.append(f"without {' and '.join(f'{part}.' for part in removed)}")
    if left_out:
        texts.append(f"left out: {', '.join(left_out[:4])}{f' and {len(left_out) - 4} more' if left_out[4:] else ''}")
    return Found(renamed, "; ".join(texts) or "as they are")


def _prefix(names: Collection[str], own: set[str], source: str, *, kind: str) -> tuple[str, str]:
    """Return the prefix below which the most of the network's own names are, at least half of them; mostly nothing.

    Returns:
        The prefix, and where there are raw weights and their average, that of those which are not taken.

    Raises:
        ValueError: there is a whole network below each of several.
    """
    found: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in own:
                prefix = ".".join(parts[:place])
                found[prefix] = found.get(prefix, 0) + 1
    most = max(found.values(), default=0)
    if 2 * most < len(own) or found.get("") == most:
        return "", ""
    best = [prefix for prefix, count in found.items() if count == most]
    averages = [prefix for prefix in best if any(part in AVERAGE for part in prefix.split("."))]
    others: list[str] = []
    if 0 < len(averages) < len(best):
        raw = [prefix for prefix in best if prefix not in averages]
        best, others = (averages, raw) if kind == "average" else (raw, averages)
    if len(best) > 1:
        raise ValueError(
            f"{source} has the network {len(best)} times, below {' and '.join(best)}; save one of them alone"
        )
    return best[0], next(iter(others), "")
