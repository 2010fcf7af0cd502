"""What a config folder may have Hydra run: classes of callbacks, plugins and logging, and where a log is written.

A folder of configs (conf/, --config-dir) may come from a stranger. Hydra instantiates what its `hydra` part names
before this program sees the config, so that part is checked as soon as it is composed. Hydra's own list of refused
targets is a second line of defence only: its authors say that it is no boundary.
"""

import re
from collections.abc import Iterator
from typing import Any

from imgcls.environment import TRUST, trusts_configs
from imgcls.errors import ConfigError

TARGETS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra.experimental.callbacks.LogJobReturnCallback",
)
LOG_CLASSES = (
    "colorlog.ColoredFormatter",
    "imgcls.config.Console",
    "imgcls.config.LogFile",
    "logging.FileHandler",
    "logging.Formatter",
    "logging.NullHandler",
    "logging.StreamHandler",
)
# What a part of logging may set besides its class; every key that is not here could name code or a file.
LOG_SETTINGS = {
    "formatters": {"format", "datefmt", "style", "validate", "log_colors"},
    "handlers": {"formatter", "level", "stream", "filename", "delay", "encoding", "mode"},
}
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LOG_FILE = re.compile(r"\$\{hydra\.runtime\.output_dir\}/(\$\{hydra\.job\.name\}|\w[\w-]*)\.log")


def check_hydra(hydra: dict[str, Any]) -> None:
    """Refuse a composed `hydra` part, interpolations not filled in, that would run or write what it should not.

    Raises:
        ConfigError: with the key, the value, and the setting that allows it.
    """
    if trusts_configs():
        return
    for key, name, value in _leaves(hydra, "hydra"):
        if name == "_target_" and value not in TARGETS:
            raise _refusal(key, value, f"a config folder may name {', '.join(TARGETS)}")
    job = hydra.get("job") or {}
    for name, value in (job.get("env_set") or {}).items():
        raise _refusal(f"hydra.job.env_set.{name}", value, "a config folder may set no environment variables")
    if not re.fullmatch(r"\w[\w-]*", str(job.get("name"))):
        raise _refusal("hydra.job.name", job.get("name"), "the log is named by it; use letters, digits, - and _")
    for part in ("job_logging", "hydra_logging"):
        _check_logging(f"hydra.{part}", hydra.get(part) or {})


def _check_logging(key: str, logging: dict[str, Any]) -> None:
    for kind, parts in logging.items():
        if kind == "filters" and parts:
            raise _refusal(f"{key}.filters", parts, "a config folder may name no filters of the log")
        if kind not in LOG_SETTINGS:
            continue
        for name, settings in (parts or {}).items():
            for setting, value in (settings or {}).items():
                _check_log_setting(f"{key}.{kind}.{name}.{setting}", kind, setting, value)


def _check_log_setting(key: str, kind: str, setting: str, value: Any) -> None:
    if setting in ("class", "()"):
        if value not in LOG_CLASSES:
            raise _refusal(key, value, f"a config folder may name {', '.join(LOG_CLASSES)}")
    elif setting not in LOG_SETTINGS[kind]:
        raise _refusal(key, value, f"a config folder may set {', '.join(sorted(LOG_SETTINGS[kind]))}")
    elif setting == "filename" and not LOG_FILE.fullmatch(str(value)):
        raise _refusal(key, value, "a log is written as ${hydra.runtime.output_dir}/<name>.log")
    elif setting == "mode" and value != "a":
        raise _refusal(key, value, "a log is appended to; use a")
    elif setting == "stream" and value not in STREAMS:
        raise _refusal(key, value, f"use {' or '.join(STREAMS)}")


def _refusal(key: str, value: Any, reason: str) -> ConfigError:
    return ConfigError(
        f"{key}={value} is not allowed: {reason}; if you trust whoever wrote the config folder as your own code, "
        f"set the environment variable {TRUST}=1"
    )


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str, Any]]:
    """Yield each value of a tree with its dotted key, and the last part of that."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in pairs:
        if isinstance(value, dict | list):
            yield from _leaves(value, f"{key}.{name}")
        else:
            yield f"{key}.{name}", str(name), value
