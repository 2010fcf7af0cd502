"""One line for each error of Hydra and OmegaConf, with the nearest right name."""

import dataclasses
import re
from collections.abc import Iterable

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from imgcls.config.hydra_internals import (
    UnknownKey,
    ambiguous_override,
    group_choices,
    refused_override,
    unknown_key,
    without_types,
)
from imgcls.config.schema import Config, EvaluateConfig
from imgcls.config.settings import settings_of
from imgcls.environment import command
from imgcls.errors import did_you_mean, text_of

# Groups of train.py, or words of evaluate.py, that are not a key of the composed config.
MORE_KEYS = ("experiment", "model", "augment")
# What other programs call the keys here.
ELSEWHERE = {
    "arch": "model",
    "amp": "precision",
    "batch": "batch_size",
    "bs": "batch_size",
    "b": "batch_size",
    "continue": "continue_run",
    "crop_size": "image_size",
    "cuda": "device",
    "data_dir": "data.root",
    "data_path": "data.root",
    "dataset": "data",
    "dtype": "precision",
    "ema": "ema_decay",
    "eval_every": "validate_every",
    "fp16": "precision",
    "gpu": "device",
    "gpus": "device",
    "half": "precision",
    "head_only_epochs": "unfreeze_after_epochs",
    "img_size": "image_size",
    "imgsz": "image_size",
    "input_size": "image_size",
    "learning_rate": "optimizer.lr",
    "log_interval": "log_every_steps",
    "num_workers": "data.num_threads",
    "opt": "optimizer",
    "output": "name",
    "path": "data.root",
    "patience": "early_stopping.patience_epochs",
    "pretrained": "weights",
    "resume": "continue_run",
    "save_every": "checkpoint.every_minutes",
    "sched": "schedule",
    "scheduler": "schedule",
    "tensorboard": "logger",
    "wd": "optimizer.weight_decay",
    "workers": "data.num_threads",
}

# What OmegaConf says of a value that does not fit, and what does.
KINDS_OF_VALUES = {
    "could not be converted to Integer": "a whole number",
    "could not be converted to Float": "a number",
    "is not a valid bool": "true or false",
    "is not a ListConfig, list or tuple": "a list, as [1,2]",
}

# What Hydra raises while it composes a config: all of them are mistakes in an override or in conf/.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)


def one_line(error: BaseException, kind: type = Config) -> str:
    """Return an error's text; Hydra's run over several lines and name no alternatives, so they are rewritten.

    Args:
        kind: the schema of the config that was composed.
    """
    if isinstance(error, YAMLError):  # names the file, the line and the column, each on a line of the text
        return " ".join(str(error).split())
    return _explain(error, kind) if isinstance(error, COMPOSITION_ERRORS) else text_of(error)


def _explain(error: BaseException, kind: type) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if not group:
            return f"--config-name {choice}: {where_own_settings_go()}"
        options = list(error.options or group_choices(group))  # Hydra lists none where several are chosen
        return f"{group}={choice}: there is no such {group}{did_you_mean(choice, options)}; one of {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not an override that Hydra understands; write key=value, and quote odd characters"
    if override := ambiguous_override(error):
        return f"{override}: several values; to run one job for each, add -m; for a list, write key=[value1,value2]"
    if unknown := unknown_key(error):
        return _unknown_key(unknown, kind)
    if isinstance(error, ConfigCompositionException) and cause is not None:
        if parts := _parts_of(refused_override(error), kind):
            return parts
        return f"{refused_override(error)}{_kind_of_value(str(cause).splitlines()[0])}"
    return without_types(str(error))


def _kind_of_value(reason: str) -> str:
    """Return what OmegaConf says of a value of the wrong type, by the kind of value that the key takes."""
    for said, kind in KINDS_OF_VALUES.items():
        if re.search(said, reason):
            return f" must be {kind}"
    return f": {reason}"


def _parts_of(override: str, kind: type) -> str | None:
    """Return the error about `early_stopping=5`, a value for a part that has several settings; None for others."""
    key, _, value = override.lstrip("+").partition("=")
    parts = [name for name, _ in settings_of(kind) if name.startswith(f"{key}.")]
    if not parts:
        return None
    write = f"{parts[0]}={value}" if len(parts) == 1 else f"one of {', '.join(f'{part}=...' for part in parts)}"
    return f"{override}: {key} has several settings; write {write}"


def _unknown_key(unknown: UnknownKey, kind: type) -> str:
    key, siblings, everywhere = unknown
    if not key:
        return "=: an override without a key; write key=value"
    path = key.split(".")[:-1]
    everywhere = list(everywhere)
    if path and not any(name.startswith(f"{'.'.join(path)}.") for name in everywhere):
        siblings = []  # there is no such part of the config
    known = siblings if path else [*siblings, *MORE_KEYS]
    # A setting of the class behind `_target_` may be added with a +; a key of ours that does not exist may not.
    also = f"; to pass it to {'.'.join(path)}._target_ anyway: +{key}=..." if path and "_target_" in siblings else ""
    return no_such_key(key, known, everywhere, kind=kind) + also


def no_such_key(key: str, known: Iterable[str], everywhere: Iterable[str] = (), *, kind: type) -> str:
    """Return that there is no such key, the name that is probably meant, and where all of them are shown.

    Args:
        known: the keys of the part of the config that it would belong to.
        everywhere: the dotted keys of the whole config.
        kind: the schema of the whole config.
    """
    *path, leaf = key.split(".")
    known = [name for name in known if not name.startswith("_")]
    if not path and key not in ELSEWHERE and (other := _other_command(key, kind)):
        return f"{key}: there is no such key; it belongs to `{command(other)}`"
    where = f"{'.'.join(path)} has {', '.join(known)}" if path and known else "--cfg job shows the keys"
    hint = (did_you_mean(leaf, known) if path else "") or _hint(leaf, known, everywhere)
    return f"{key}: there is no such key{hint}; {where}"


def _hint(leaf: str, known: list[str], everywhere: Iterable[str]) -> str:
    """Return the hint at the key that is meant: of this name in another part, of another program, or a similar one."""
    # Of several keys with one name the outermost: recipe.epochs is only what epochs is made from.
    outermost_last = sorted(everywhere, key=lambda path: path.count("."), reverse=True)
    nested = {path.rpartition(".")[2]: path for path in outermost_last if not path.rpartition(".")[2].startswith("_")}
    named = nested | ELSEWHERE | {name: name for name in known}
    return did_you_mean(leaf, named, means=named)


def where_own_settings_go() -> str:
    """Return where settings of your own go, which --config-name is not for."""
    return (
        f"conf/ has config.yaml for `{command('train')}`, evaluate.yaml for `{command('evaluate')}`; what you add to "
        "them goes into an experiment: --config-dir DIR experiment=mine reads DIR/experiment/mine.yaml"
    )


def _other_command(key: str, kind: type) -> str | None:
    """Return the command that has the key, if it is not the one whose config is `kind`."""
    other, name = (EvaluateConfig, "evaluate") if kind is Config else (Config, "train")
    return name if key in {field.name for field in dataclasses.fields(other)} else None
