"""Words of a command line: `--key value`, `--key=value` and `key=value` are the same, and paths need no quotes."""

import glob
import re
from collections.abc import Callable, Iterable, Sequence

from hydra.errors import HydraException

from imgcls.config.hydra_internals import parse_overrides
from imgcls.errors import ConfigError, did_you_mean

# What train.py's words say of a network: for weights from elsewhere they are the same words in every command.
NETWORK_GROUPS = ("model", "augment")
NETWORK_INPUT = ("data.mean", "data.std", "data.channels")


def is_network_word(word: str) -> bool:
    """Return True for train.py's words that describe the network: model=resnet50, model.stride_in_3x3=true, ..."""
    key = word.partition("=")[0].lstrip("+~")
    return key.partition(".")[0] in NETWORK_GROUPS or key in NETWORK_INPUT


def is_crop_word(word: str) -> bool:
    """Return True for words that say how images are cropped in a test: augment.eval_crop=whole, and its settings."""
    key = word.partition("=")[0].lstrip("+")
    return f"{key}.".startswith("augment.eval_crop.")


def is_interpolation_word(word: str) -> bool:
    """Return True for words that say how the pixels of crops are interpolated."""
    return word.partition("=")[0].lstrip("+") in ("augment.interpolation", "augment.eval_interpolation")


def split_network(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the words that describe the network, and the others."""
    words = list(words)
    return [word for word in words if is_network_word(word)], [word for word in words if not is_network_word(word)]


def without_dashes(
    words: Sequence[str], *, is_option: Callable[[str], bool], flags: Iterable[str] = (), lists: Iterable[str] = ()
) -> list[str]:
    """Rewrite `--key value`, `--key=value` and `--flag` as key=value; other words stay.

    Args:
        is_option: which keys there are.
        flags: keys of true or false, which may be written without a value.
        lists: keys that take all words up to the next option, each as key=value.

    Raises:
        ConfigError: the last option has no value.
    """
    plain: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*plain, word, *rest]
        key, equals, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not word.startswith("--") or not is_option(key):
            plain.append(word)
        elif equals:
            plain.append(f"{key}={value}")
        elif key in flags:
            plain.append(f"{key}={rest.pop(0) if rest and rest[0].lower() in ('true', 'false') else 'true'}")
        elif not rest or rest[0].startswith("--"):
            raise ConfigError(f"{word} has no value; write {key}=..., or {word} ...")
        else:
            plain.append(f"{key}={rest.pop(0)}")
            while key in lists and rest and not rest[0].startswith("--") and not is_option(rest[0].partition("=")[0]):
                plain.append(f"{key}={rest.pop(0)}")
    return plain


def check_known(word: str, known: Iterable[str]) -> None:
    """Refuse an option that does not exist; a file whose name has a = is none.

    Raises:
        ConfigError: with the nearest name.
    """
    key, equals, _ = word.partition("=")
    option = key.removeprefix("--")
    if word.startswith("--") or (equals and option.replace(".", "").isidentifier() and not glob.glob(word)):
        known = sorted(known)
        options = f"the options are {', '.join(known)}" if known else "this takes no options"
        raise ConfigError(f"{key}: there is no such option{did_you_mean(option, known)}; {options}")


def quote_path(word: str, *, paths: Iterable[str], sweep: bool) -> str:
    """Quote the value of key=value if the key takes a path and Hydra's grammar does not take it: spaces, =, commas.

    A list, quoted text and an interpolation stay, and so does what a sweep (-m) splits at commas.
    """
    key, _, value = word.partition("=")
    if key not in paths or not value or value[0] in "'\"[" or "${" in value:
        return word
    try:
        (override,) = parse_overrides([word])
        if sweep or not override.is_sweep_override():
            return word
    except HydraException:
        if sweep and "," in value:
            return word
    return quoted(key, value)


def quoted(key: str, value: str) -> str:
    """Return `key='value'` as Hydra reads it."""
    # In Hydra's quoted text backslashes count only before a quote: those are doubled.
    escaped = re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + ("\\'" if end[2] else ""), value)
    return f"{key}='{escaped}'"
