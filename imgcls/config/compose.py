"""From conf/ and overrides to the plain, checked config that the rest of the program reads."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from imgcls.config.checks import check_config, check_evaluation
from imgcls.config.components import build_component
from imgcls.config.hydra_internals import (
    compose_whole,
    compose_within_main,
    forget_plugin_config,
    group_choices,
    groups_in_use,
    override_config,
    parse_overrides,
)
from imgcls.config.identity import flatten, images_name, keys_not_in_run_name, run_name
from imgcls.config.messages import COMPOSITION_ERRORS, no_such_key, one_line, where_own_settings_go
from imgcls.config.own_packages import package_names
from imgcls.config.plugs import crop_by_name
from imgcls.config.schema import Config, EvaluateConfig
from imgcls.config.settings import settings_of, shorten_image_sizes
from imgcls.environment import CONF_DIR, command, torchrun_command
from imgcls.errors import ConfigError

GROUPS_OF_SEVERAL = ("logger",)  # of which a config may choose several, as logger=[tensorboard,wandb]
SETTINGS = {key for kind in (Config, EvaluateConfig) for key, _ in settings_of(kind)}
AnyConfig = TypeVar("AnyConfig", Config, EvaluateConfig)


def to_config(
    cfg: DictConfig,
    kind: type[AnyConfig] = Config,
    words: Iterable[str] = (),
    folders: Iterable[str | Path] = (CONF_DIR,),
) -> AnyConfig:
    """Turn Hydra's composed tree into a plain, checked config.

    Args:
        words: of the command line. A run's config keeps their keys, and those of the experiment that they choose.
        folders: where configs are.

    Raises:
        ConfigError: a value is missing, a key is unknown, or a check refuses a value.
    """
    if OmegaConf.get_type(cfg) is not kind:
        raise ConfigError(f"--config-name: {where_own_settings_go()}")
    _check_keys(cfg, kind, whole=kind)
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; give one: {missing[0]}=...")
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, kind)
    config.trust = package_names(config.trust)
    if isinstance(config, EvaluateConfig):
        check_evaluation(config)
    else:
        augment = config.augment
        augment.crop = crop_by_name("augment.crop", augment.crop)
        augment.eval_crop = crop_by_name("augment.eval_crop", augment.eval_crop)
        if config.given:
            raise ConfigError("given: there is no such key; the command line sets it")
        config.given = _keys_given(list(words), folders)
        augment.resolve_policy()
        check_config(config)
    shorten_image_sizes(config)
    return config


def _keys_given(words: list[str], folders: Iterable[str | Path]) -> list[str]:
    """Return the keys that a user has set: in the words of the command line, and in the file of an experiment."""
    given = [word.partition("=")[0].lstrip("+") for word in words if not word.lstrip("+~").startswith("hydra")]
    for name in (word.partition("=")[2] for word in words if word.lstrip("+").startswith("experiment=")):
        files = (Path(folder) / "experiment" / f"{name}.yaml" for folder in folders)
        for node in (OmegaConf.to_container(OmegaConf.load(file)) for file in files if file.is_file()):
            assert isinstance(node, dict)
            given += [key for key in flatten({str(key): value for key, value in node.items()}) if key != "defaults"]
    return given


def _check_keys(node: DictConfig, kind: type, prefix: str = "", *, whole: type) -> None:
    """Refuse keys that the schema does not have: `+key=...` adds what Hydra would refuse without the +.

    The settings of a `_target_` are checked later, against its signature.
    """
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    for key in map(str, node):
        if key not in fields:
            raise ConfigError(no_such_key(f"{prefix}{key}", fields, kind=whole))
        part = fields[key]
        if dataclasses.is_dataclass(part) and isinstance(part, type):
            _check_keys(node[key], part, f"{prefix}{key}.", whole=whole)


def compose(overrides: Iterable[str] = (), *, config_name: str = "config") -> Config:
    """Compose a Config from conf/ in a program or a test: `compose(["model=vgg16"])`.

    Raises:
        ConfigError: as `to_config`, and for an override that Hydra refuses.
    """
    register()
    overrides = list(overrides)
    try:
        check_choices(overrides)
        with compose_within_main():
            return to_config(hydra.compose(config_name, overrides=overrides), words=overrides)
    except (*COMPOSITION_ERRORS, ValueError) as error:
        raise ConfigError(one_line(error)) from error


def compose_network(words: list[str]) -> Config:
    """Compose the run of a network with weights from elsewhere, as train.py's words describe it, on ImageNet's data.

    Raises:
        ConfigError: as `compose`.
    """
    return compose(["data=imagenet", *words])


def crop_from_words(node: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """Return the settings of the validation crop `node` as words such as augment.eval_crop=whole change them.

    Raises:
        ConfigError: there is no such crop, or a word is no setting of it.
    """
    cfg = OmegaConf.create({"augment": {"eval_crop": node}})
    OmegaConf.set_struct(cfg, True)
    try:
        override_config(cfg, words)
    except COMPOSITION_ERRORS as error:
        raise ConfigError(one_line(error)) from error
    changed = OmegaConf.to_container(cfg.augment.eval_crop, resolve=True)
    assert isinstance(changed, dict)
    return {str(key): value for key, value in changed.items()}


def help_text(config_name: str, config_dir: str | None) -> str:
    """Return the page of help of a config in conf/; Hydra's own way to it takes two seconds.

    Args:
        config_dir: a folder of configs beside conf/, whose names are listed too.
    """
    with compose_within_main():
        return compose_whole(config_name, (), config_dir).hydra.help.template


def protocol_names(*, first: str) -> tuple[str, ...]:
    """Return the names in conf/protocol, `first` before the others."""
    return tuple(sorted(group_choices("protocol"), key=lambda name: (name != first, name)))


def build_protocol(name: str, **settings: Any) -> Any:
    """Build the test protocol that conf/protocol/`name` describes, with settings that win over its own."""
    node = OmegaConf.to_object(OmegaConf.load(CONF_DIR / "protocol" / f"{name}.yaml"))
    assert isinstance(node, dict)
    return build_component("protocol", {str(key): value for key, value in node.items()} | settings)


def register() -> None:
    """Register the schema and the resolvers that conf/ uses with Hydra; calling it again changes nothing."""
    ConfigStore.instance().store(name="schema", node=Config)
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
    forget_plugin_config("hydra/sweeper", "optuna")  # hydra-optuna-sweeper's
    OmegaConf.register_new_resolver("first", _first, replace=True)
    OmegaConf.register_new_resolver("if_equal", _if_equal, replace=True)
    OmegaConf.register_new_resolver("command", command, replace=True)
    OmegaConf.register_new_resolver("torchrun_command", torchrun_command, replace=True)
    OmegaConf.register_new_resolver("choices_of", lambda group: ", ".join(group_choices(group)), replace=True)
    OmegaConf.register_new_resolver("groups", _list_groups, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("images_name", images_name, replace=True)
    OmegaConf.register_new_resolver("keys_not_in_run_name", keys_not_in_run_name, replace=True)


def _first(*values: Any) -> Any:
    """Return the first value that is not null: `${first:${data.scale.epochs},${recipe.epochs}}`."""
    return next((value for value in values if value is not None), None)


def _if_equal(one: Any, other: Any, then: Any, otherwise: Any) -> Any:
    """Return `then` if two values are equal, else `otherwise`: `${if_equal:${data.name},shapes,3,25}`."""
    return then if one == other else otherwise


def _list_groups() -> str:
    """Return a line for each group of the composed config with the names in it: `model: alexnet, googlenet, ...`."""
    groups = sorted({*groups_in_use(), *GROUPS_OF_SEVERAL})
    return "\n".join(f"{group}: {', '.join(group_choices(group))}" for group in groups)


def check_choices(overrides: list[str]) -> None:
    """Refuse a group that is set to something other than one name; Hydra's own error does not name it.

    Raises:
        ConfigError: with the names that there are.
    """
    for override in parse_overrides(overrides):
        group, value = override.key_or_group, override.value()
        if override.is_delete() and group in SETTINGS:
            raise ConfigError(f"~{group}: a setting cannot be removed; use {group}=VALUE")
        if isinstance(value, str) and (CONF_DIR / group).is_dir() and value.endswith((".yaml", ".yml")):
            raise ConfigError(
                f"{group}={value}: {group} takes a name, not a file; put the file into a folder of that name and say "
                f"where the folder is: --config-dir DIR {group}={Path(value).stem} reads DIR/{group}/{Path(value).name}"
            )
        several = group in GROUPS_OF_SEVERAL and isinstance(value, list)
        chosen = isinstance(value, str) or several or override.is_sweep_override() or override.is_delete()
        if chosen or isinstance(value, dict) or not (CONF_DIR / group).is_dir():
            continue
        known = ", ".join(group_choices(group))
        raise ConfigError(f"{override.input_line}: {group} takes one name, or is left out; one of {known}")
