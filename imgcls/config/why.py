"""Where a value of the config comes from: `python train.py model=vgg16 --why optimizer.lr`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from imgcls.config.compose import check_choices
from imgcls.config.hydra_internals import (
    COMMAND_LINE,
    Layer,
    checked_configs,
    compose_whole,
    compose_within_main,
    config_layers,
    parse_overrides,
    read_words,
)
from imgcls.config.messages import no_such_key
from imgcls.config.settings import typed
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError

_NOTHING = object()


def split_why(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the words without `--why KEY`, and the key.

    Raises:
        ConfigError: --why without a key.
    """
    words = list(words)
    for number, word in enumerate(words):
        option, equals, key = word.partition("=")
        if option != "--why":
            continue
        if not equals:
            key = words.pop(number + 1) if number + 1 < len(words) else ""
        if not key or key.startswith("-"):
            raise ConfigError("--why has no value; name a setting: --why optimizer.lr")
        return words[:number] + words[number + 1 :], key.partition("=")[0]
    return words, None


def why(key: str, words: Sequence[str], config_name: str, kind: type) -> str:
    """Return which files and words set a value, the one that holds first, each with the files that chose it.

    Raises:
        ConfigError: there is no such key, or a mistake in the words.
    """
    read = read_words(list(words))
    check_choices(read.overrides)
    where = [] if read.config_dir is None else [f"hydra.searchpath=['file://{Path(read.config_dir).resolve()}']"]
    with compose_within_main(), checked_configs():
        whole = compose_whole(config_name, read.overrides, read.config_dir)
        tree = OmegaConf.to_container(whole, resolve=False, enum_to_str=True)
        assert isinstance(tree, dict)
        raw = _at(tree, key)
        if raw is _NOTHING:
            parent = _at(tree, key.rpartition(".")[0]) if "." in key else tree
            known = [str(name) for name in parent if name != "hydra"] if isinstance(parent, dict) else []
            raise ConfigError(no_such_key(key, known, kind=kind))
        value = OmegaConf.select(whole, key)
        layers = config_layers(config_name, [*read.overrides, *where])
    origins = _origins(key, read.overrides, layers)
    width = min(40, max((len(text) for text, _ in origins), default=0))
    lines = [f"{key}={_text(_plain(value))}", *(f"  {text:<{width}}  {origin}" for text, origin in origins)]
    for part in re.findall(r"\$\{([a-z]\w*(?:\.\w+)+)\}", _text(raw)):  # what the value is made from
        lines += [f"  {part}={text}: {origin}" for text, origin in _origins(part, read.overrides, layers)[:1]]
    return "\n".join(lines)


def _origins(key: str, overrides: list[str], layers: Sequence[Layer]) -> list[tuple[str, str]]:
    found = [*_from_words(overrides, key), *(_from_layer(layer, key) for layer in reversed(layers))]
    return [origin for origin in found if origin is not None]


def _from_words(overrides: list[str], key: str) -> list[tuple[str, str]]:
    """Return the words that set the key, or a part of it, the last one first."""
    found = []
    for word, override in zip(overrides, parse_overrides(overrides), strict=True):
        name = override.key_or_group
        is_value = not (CONF_DIR / name).is_dir()
        if is_value and (name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.")):
            found.append((word.partition("=")[2], f"{COMMAND_LINE}: {word}"))
    return found[::-1]


def _from_layer(layer: Layer, key: str) -> tuple[str, str] | None:
    value = _at(layer.values, key)
    if value is _NOTHING or value == "???":
        return None
    if not layer.folder:
        return _text(value), "the default of the program (imgcls/config/schema.py)"
    folder = Path(layer.folder)
    folder = Path("conf") if folder == CONF_DIR else folder
    chain = "".join(f", chosen by {name if name == COMMAND_LINE else f'{name}.yaml'}" for name in layer.chosen_by)
    return _text(value), f"{folder / layer.name}.yaml{chain}"


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return _NOTHING
        tree = tree[part]
    return tree


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True, enum_to_str=True) if OmegaConf.is_config(value) else value


def _text(value: Any) -> str:
    """Return a value as it is typed."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return typed(value)
