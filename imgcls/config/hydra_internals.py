"""All that depends on how Hydra and OmegaConf are built inside, or on the words of their errors.

Their public interface offers none of it. tests/config/test_hydra_internals.py fails if a new version changes it.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser  # the only way to see Hydra's own options before it acts on them
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from imgcls.config.trust import check_hydra
from imgcls.environment import CONF_DIR

# Hydra.main prints errors and exits; with this variable set it raises them.
FULL_ERROR = "HYDRA_FULL_ERROR"


class Words(NamedTuple):
    """A command line as Hydra reads it: overrides, and words that it would refuse with a page of usage."""

    overrides: list[str]
    refused: list[str]


def read_words(words: list[str]) -> Words:
    known, refused = get_args_parser().parse_known_args(words)
    return Words(known.overrides, refused)


def hydra_options() -> set[str]:
    """Return the options of Hydra itself, such as --cfg; its parser is private."""
    return {option for action in get_args_parser()._actions for option in action.option_strings}


def parse_overrides(words: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(words)


def run_main(job: Callable[[DictConfig], None], config_name: str) -> Exception | None:
    """Run Hydra's main on sys.argv; raise its own errors, return the first error of a job."""
    raised: list[Exception] = []

    def keep(cfg: DictConfig) -> None:
        # Hydra prints a line before it passes on a job's exception; so it never sees one.
        try:
            job(cfg)
        except Exception as error:
            raised.append(error)

    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        with _checked_configs():
            hydra.main(config_path=str(CONF_DIR), config_name=config_name, version_base="1.3")(keep)()
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before
    return raised[0] if raised else None


@contextmanager
def _checked_configs() -> Iterator[None]:
    """Within this context each config that Hydra composes is checked before Hydra instantiates what it names.

    Hydra has no hook between the two: callbacks and logging classes are instantiated by the function that composes.
    """
    load = ConfigLoaderImpl.load_configuration

    def load_and_check(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> DictConfig:
        cfg = load(self, *args, **kwargs)
        part = OmegaConf.to_container(cfg.hydra, resolve=False)
        assert isinstance(part, dict)
        check_hydra({str(key): value for key, value in part.items()})
        return cfg

    ConfigLoaderImpl.load_configuration = load_and_check
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load


@contextmanager
def compose_within_main() -> Iterator[None]:
    """Within this context hydra.compose works even inside a job of Hydra, whose global state it would refuse."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def ambiguous_override(error: BaseException) -> str | None:
    """Return the override that has several values without -m; Hydra has no class for this error."""
    match = re.search(r"Ambiguous value for argument '([^']+)'", str(error))
    return match[1] if match else None


class UnknownKey(NamedTuple):
    """A key that the config does not have, and the keys that there are in its place."""

    key: str
    siblings: list[str]


def unknown_key(error: BaseException) -> UnknownKey | None:
    """Return which key cannot be overridden; it is only in the error's text, its siblings only in the cause."""
    match = re.search(r"Could not override '([^']*)'", str(error))
    if not match:
        return None
    parent: Any = getattr(error.__cause__ or error.__context__, "parent_node", None)
    siblings = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
    return UnknownKey(match[1].split("@")[0], siblings)


def refused_override(error: BaseException) -> str:
    """Return the override whose value the schema refuses; the reason is in the error's cause."""
    return str(error).splitlines()[0].removeprefix("Error merging override ")


def without_types(text: str) -> str:
    """Return OmegaConf's text in one line, without its lines on the classes involved."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and "object_type" not in line)
