"""All that depends on how Hydra and OmegaConf are built inside, or on the words of their errors.

Their public interface offers none of it. tests/config/test_hydra_internals.py fails if a new version changes it.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser  # the only way to see Hydra's own options before it acts on them
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from imgcls.config.plugs import apply_overrides
from imgcls.config.trust import check_hydra
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError

# Hydra.main prints errors and exits; with this variable set it raises them.
FULL_ERROR = "HYDRA_FULL_ERROR"


class Words(NamedTuple):
    """A command line as Hydra reads it.

    Args:
        refused: words that it would refuse with a page of usage.
        config_dir: the value of --config-dir.
        shown_config: that of --cfg: job, hydra or all.
        multirun: whether -m or --multirun is among the words.
    """

    overrides: list[str]
    refused: list[str]
    config_dir: str | None = None
    shown_config: str | None = None
    multirun: bool = False


def read_words(words: list[str]) -> Words:
    known, refused = get_args_parser().parse_known_args(words)
    return Words(known.overrides, refused, known.config_dir, known.cfg, known.multirun)


def hydra_options() -> set[str]:
    """Return the options of Hydra itself, such as --cfg; its parser is private."""
    return {option for action in get_args_parser()._actions for option in action.option_strings}


def parse_overrides(words: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(words)


class _Groups:
    """What Hydra's overrides ask of a config loader: the names in a group, for `model=glob(vgg*)`."""

    def get_group_options(self, group: str, **_: Any) -> list[str]:
        return group_choices(group)


def expand(words: list[str]) -> list[list[str]]:
    """Return the words of each job of a sweep, every combination of lists, ranges, choices and globs.

    Raises:
        ConfigError: an override that has no list of values.
    """
    overrides = OverridesParser.create(config_loader=_Groups()).parse_overrides(words)  # type: ignore[arg-type]
    for override in overrides:
        if override.is_interval_sweep():
            raise ConfigError(f"{override.input_line}: an interval has no list of values; add hydra/sweeper=optuna")
    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


class Dimension(NamedTuple):
    """One key that a search draws values for.

    Args:
        choices: the values, as words of the command line; None for numbers between `low` and `high`.
        step: of numbers from a range, of which `high` is one.
    """

    key: str
    choices: tuple[str, ...] | None = None
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[str, str]:
        """Two different values, if there are two."""
        return (self.choices[0], self.choices[-1]) if self.choices else (self.text(self.low), self.text(self.high))

    def text(self, value: Any) -> str:
        """Return a value as a word of the command line: a number with four digits, to keep the run's name short."""
        return value if isinstance(value, str) else str(int(value)) if self.whole else repr(float(f"{value:.4g}"))


def search_space(words: list[str]) -> list[Dimension]:
    """Return what `key=interval(a,b)`, `range(a,b,step)`, `choice(a,b)` and `glob(x*)` ask to search.

    `tag(log,interval(a,b))` is a log scale.

    Raises:
        ConfigError: a space without two values.
    """
    return [
        _dimension(override)
        for override in OverridesParser.create(config_loader=_Groups()).parse_overrides(words)  # type: ignore[arg-type]
    ]


def _dimension(override: Override) -> Dimension:
    value, key = override.value(), override.get_key_element()
    if isinstance(value, IntervalSweep | RangeSweep):
        stop = value.end if isinstance(value, IntervalSweep) else value.stop
        assert value.start is not None
        assert stop is not None
        whole = isinstance(value.start, int) and isinstance(stop, int)
        step = None if isinstance(value, IntervalSweep) else value.step
        if isinstance(value, RangeSweep):  # its stop is not one of its values
            values = list(value.range())
            low, high = (min(values), max(values)) if values else (0, 0)
        else:
            low, high = value.start, stop
        log = "log" in value.tags
        if not low < high or (log and low <= 0):
            raise ConfigError(f"{override.input_line}: not a space to search; write two numbers, the smaller one first")
        return Dimension(key, low=low, high=high, step=None if log else step, log=log, whole=whole)
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise ConfigError(f"{override.input_line}: nothing to choose from")
    return Dimension(key, choices=choices)


class Layer(NamedTuple):
    """One file of the composed config.

    Args:
        name: as in defaults lists: config, model/vgg16.
        folder: where it is; empty for the schema.
        values: what it sets, at its place in the whole config.
        chosen_by: the chain of names that led to it, the nearest first; COMMAND_LINE for an override.
    """

    name: str
    folder: str
    values: Any
    chosen_by: tuple[str, ...]


COMMAND_LINE = "the command line"


def config_layers(config_name: str, overrides: list[str]) -> list[Layer]:
    """Return the files that a config is merged from, in that order; call it within `compose_within_main`.

    Hydra keeps no record of which file has set a value; `--info defaults` shows only the list.
    """
    loader: Any = GlobalHydra.instance().config_loader()
    parsed, repository = loader._parse_overrides_and_create_caching_repo(config_name, overrides)
    found = create_defaults_list(
        repo=repository, config_name=config_name, overrides_list=parsed, prepend_hydra=True, skip_missing=False
    )
    chosen: dict[str, str | None] = {}  # each group, to the file that overrides its choice
    for group, about in found.overrides.override_metadata.items():
        chosen[group] = COMMAND_LINE if about.external_override else about.containing_config_path
    layers = []
    for default in found.defaults:
        if default.config_path is None or default.config_path.startswith("hydra/"):
            continue
        result = loader._load_single_config(default, repository)
        folder = "" if result.is_schema_source else str(result.path).removeprefix("file://")
        values = OmegaConf.to_container(result.config, resolve=False, enum_to_str=True)
        layers.append(Layer(default.config_path, folder, values, _chain(default.config_path, default.parent, chosen)))
    return layers


def _chain(name: str, parent: str | None, chosen: dict[str, str | None]) -> tuple[str, ...]:
    chain: list[str] = []
    while name not in (COMMAND_LINE, "config") and len(chain) < 9:
        chooser = chosen.get(name.rpartition("/")[0]) or (parent if not chain else None)
        if chooser in (None, name, "config"):
            break
        chain.append(str(chooser))
        name = str(chooser)
    return tuple(chain)


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
        with checked_configs(), composed_once(), plugs_first():
            hydra.main(config_path=str(CONF_DIR), config_name=config_name, version_base="1.3")(keep)()
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before
    return raised[0] if raised else None


def forget_plugin_config(group: str, name: str) -> None:
    """Leave the config that a plugin has registered as `group`/`name` out, as conf/ has one of that name.

    Hydra would take the plugin's for the schema of ours, and refuse both.
    """
    Plugins.instance()  # imports the plugins, which register their configs
    node: Any = ConfigStore.instance().repo
    for part in group.split("/"):
        node = node.get(part, {})
    node.pop(f"{name}.yaml", None)


def callbacks_of(cfg: DictConfig) -> Callbacks:
    """Return the callbacks of a composed config, which Hydra hands to launchers."""
    return Callbacks(cfg)


def group_choices(group: str) -> list[str]:
    """Return the names that there are in a group of conf/, and in that of --config-dir once Hydra is set up; sorted."""
    running, folders = GlobalHydra.instance(), [CONF_DIR]
    if running.is_initialized():  # its own get_group_options takes 35 ms a group
        places = [place.path or "" for place in running.config_loader().get_search_path().get_path()]
        more = list(HydraConfig.get().searchpath) if HydraConfig.initialized() else []
        plain = [place.removeprefix("file://") for place in [*places, *more]]
        folders = [Path(place) for place in plain if "://" not in place]  # others are packages
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def groups_in_use() -> list[str]:
    """Return the groups that the composed config takes a choice of, without Hydra's own; sorted."""
    return sorted(group for group in HydraConfig.get().runtime.choices if group.partition("/")[0] != "hydra")


def compose_whole(config_name: str, overrides: Iterable[str], config_dir: str | Path | None) -> DictConfig:
    """Compose a config with Hydra's own part, which is set for its resolvers; call it within `compose_within_main`.

    Args:
        config_dir: a folder of configs beside conf/, as --config-dir.
    """
    where = [] if config_dir is None else [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"]
    cfg = hydra.compose(config_name, overrides=[*overrides, *where], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


@contextmanager
def checked_configs() -> Iterator[None]:
    """Within this context each config that Hydra composes is checked before Hydra instantiates what it names.

    Hydra has no hook between the two: callbacks and logging classes are instantiated by the function that composes.
    """
    load = ConfigLoaderImpl.load_configuration

    def load_and_check(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> DictConfig:
        cfg = load(self, *args, **kwargs)
        part = OmegaConf.to_container(cfg.hydra, resolve=False)
        assert isinstance(part, dict)
        check_hydra({str(key): value for key, value in part.items()})
        if cfg.hydra.mode == RunMode.MULTIRUN:
            raise ConfigError("hydra.mode=MULTIRUN: a sweep is asked for on the command line, with -m")
        return cfg

    ConfigLoaderImpl.load_configuration = load_and_check
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load


@contextmanager
def composed_once() -> Iterator[None]:
    """Within this context Hydra's main takes the command line for one run, as it is: sweeps are not Hydra's here.

    It would compose the whole config a first time to look up hydra.mode in it, which takes 0.15 s.
    """
    get_mode = Hydra.get_mode

    def one_run(self: Hydra, config_name: str | None, overrides: list[str]) -> RunMode:
        return RunMode.RUN

    Hydra.get_mode = one_run  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = get_mode  # type: ignore[method-assign]


@contextmanager
def plugs_first() -> Iterator[None]:
    """Within this context a word that swaps a plug counts before the words for its settings."""
    apply = ConfigLoaderImpl._apply_overrides_to_config

    def apply_in_order(overrides: list[Override], cfg: DictConfig) -> None:
        apply_overrides(overrides, cfg, apply)

    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(apply_in_order)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl._apply_overrides_to_config = staticmethod(apply)  # type: ignore[method-assign]


def override_config(cfg: DictConfig, words: list[str]) -> None:
    """Set what words of the command line say in a config."""
    with plugs_first():
        ConfigLoaderImpl._apply_overrides_to_config(parse_overrides(words), cfg)


@contextmanager
def compose_within_main() -> Iterator[None]:
    """Within this context hydra.compose works even inside a job of Hydra, whose global state it would refuse."""
    running, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        with plugs_first(), hydra.initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = running, config


def ambiguous_override(error: BaseException) -> str | None:
    """Return the override that has several values without -m; Hydra has no class for this error."""
    match = re.search(r"Ambiguous value for argument '([^']+)'", str(error))
    return match[1] if match else None


class UnknownKey(NamedTuple):
    """A key that the config does not have, the keys that there are in its place, and the dotted keys of the whole."""

    key: str
    siblings: list[str]
    everywhere: list[str]


def unknown_key(error: BaseException) -> UnknownKey | None:
    """Return which key cannot be overridden; it is only in the error's text, its siblings only in the cause."""
    match = re.search(r"Could not override '([^']*)'", str(error))
    if not match:
        return None
    parent: Any = getattr(error.__cause__ or error.__context__, "parent_node", None)
    if not isinstance(parent, DictConfig):
        return UnknownKey(match[1].split("@")[0], [], [])
    whole = OmegaConf.to_container(parent._get_root(), resolve=False)  # has no public name
    return UnknownKey(match[1].split("@")[0], [str(name) for name in parent], list(_dotted(whole)))


def _dotted(tree: Any, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict) and f"{prefix}{key}" != "hydra":
            yield from _dotted(value, f"{prefix}{key}.")


def refused_override(error: BaseException) -> str:
    """Return the override whose value the schema refuses; the reason is in the error's cause."""
    return str(error).splitlines()[0].removeprefix("Error merging override ")


def without_types(text: str) -> str:
    """Return OmegaConf's text in one line, without its lines on the classes involved."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and "object_type" not in line)
