"""From conf/ and overrides to the plain, checked config that the rest of the program reads."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from imgcls.config.checks import check_config, check_evaluation
from imgcls.config.components import build_component
from imgcls.config.hydra_internals import compose_within_main, parse_overrides
from imgcls.config.identity import keys_not_in_run_name, run_name
from imgcls.config.messages import COMPOSITION_ERRORS, no_such_key, one_line
from imgcls.config.schema import Config, EvaluateConfig
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError

AnyConfig = TypeVar("AnyConfig", Config, EvaluateConfig)


def to_config(cfg: DictConfig, kind: type[AnyConfig] = Config) -> AnyConfig:
    """Turn Hydra's composed tree into a plain, checked config.

    Raises:
        ConfigError: a value is missing, a key is unknown, or a check refuses a value.
    """
    if OmegaConf.get_type(cfg) is not kind:
        raise ConfigError("--config-name: conf/ has config.yaml for train.py, evaluate.yaml for scripts/evaluate.py")
    _check_keys(cfg, kind)
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; give one: {missing[0]}=...")
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, kind)
    if isinstance(config, EvaluateConfig):
        check_evaluation(config)
    else:
        check_config(config)
    return config


def _check_keys(node: DictConfig, kind: type, prefix: str = "") -> None:
    """Refuse keys that the schema does not have: `+key=...` adds what Hydra would refuse without the +.

    The settings of a `_target_` are checked later, against its signature.
    """
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    for key in map(str, node):
        if key not in fields:
            raise ConfigError(no_such_key(f"{prefix}{key}", fields))
        part = fields[key]
        if dataclasses.is_dataclass(part) and isinstance(part, type):
            _check_keys(node[key], part, f"{prefix}{key}.")


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
            return to_config(hydra.compose(config_name, overrides=overrides))
    except (*COMPOSITION_ERRORS, ValueError) as error:
        raise ConfigError(one_line(error)) from error


def compose_network(words: list[str]) -> Config:
    """Compose the run of a network with weights from elsewhere, as train.py's words describe it, on ImageNet's data.

    Raises:
        ConfigError: as `compose`.
    """
    return compose(["data=imagenet", *words])


def protocol_names(*, first: str) -> tuple[str, ...]:
    """Return the names in conf/protocol, `first` before the others."""
    return tuple(sorted(_choices("protocol"), key=lambda name: (name != first, name)))


def build_protocol(name: str, **settings: Any) -> Any:
    """Build the test protocol that conf/protocol/`name` describes, with settings that win over its own."""
    node = OmegaConf.to_object(OmegaConf.load(CONF_DIR / "protocol" / f"{name}.yaml"))
    assert isinstance(node, dict)
    return build_component("protocol", {str(key): value for key, value in node.items()} | settings)


def register() -> None:
    """Register the schema and the resolvers that conf/ uses with Hydra; calling it again changes nothing."""
    ConfigStore.instance().store(name="schema", node=Config)
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
    OmegaConf.register_new_resolver("first", _first, replace=True)
    OmegaConf.register_new_resolver("choices_of", lambda group: ", ".join(_choices(group)), replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("keys_not_in_run_name", keys_not_in_run_name, replace=True)


def _first(*values: Any) -> Any:
    """Return the first value that is not null: `${first:${data.scale.epochs},${recipe.epochs}}`."""
    return next((value for value in values if value is not None), None)


def _choices(group: str) -> list[str]:
    """Return the names in conf/`group`, sorted; the help has them by `${choices_of:protocol}`."""
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def check_choices(overrides: list[str]) -> None:
    """Refuse a group that is set to something other than one name; Hydra's own error does not name it.

    Raises:
        ConfigError: with the names that there are.
    """
    for override in parse_overrides(overrides):
        group, value = override.key_or_group, override.value()
        chosen = isinstance(value, str) or override.is_sweep_override() or override.is_delete()
        if chosen or isinstance(value, dict) or not (CONF_DIR / group).is_dir():
            continue
        known = ", ".join(_choices(group))
        raise ConfigError(f"{override.input_line}: {group} takes one name, or is left out; one of {known}")
