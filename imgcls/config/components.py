"""Build what a `_target_` names, after its settings are checked against its signature: names, types, what is missing.

A mistake is an error before the call, with key and value; otherwise it may show only epochs later, or never.
"""

import copy
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from imgcls.config.own_packages import trusted_packages
from imgcls.config.plugs import CROP_PLUGS
from imgcls.config.settings import typed
from imgcls.errors import ConfigError, did_you_mean

# What the plain types of a setting are called in an error.
PLAIN: dict[Any, str] = {
    bool: "true or false (bool)",
    int: "a whole number (int)",
    float: "a number (float)",
    str: "text (str; quote a number)",
    NoneType: "null",
}
# As YAML, and as the config's own lists come out of a checkpoint.
SEQUENCES = (list, tuple)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_settings(
    key: str,
    target: str,
    factory: Callable[..., Any],
    settings: Mapping[str, Any],
    *,
    num_given: int,
    given: Mapping[str, Any],
) -> None:
    """Check `settings` against the signature of `factory`, which `key`._target_ calls `target`.

    Args:
        num_given: arguments that the call has by position, besides the settings.
        given: those that it has by name.

    Raises:
        ConfigError: a setting that it does not take, of another type, not finite, or one that is missing.
    """
    parameters = _parameters(factory)
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        for name in settings:
            if name not in parameters:
                known = [known for known in parameters if known not in given][num_given:]
                by_name = f"; a crop is swapped by its name alone: {key}=center" if key in CROP_PLUGS else ""
                raise ConfigError(
                    f"{key}.{name}={settings[name]}: {target} takes no {name}{did_you_mean(name, known)}; "
                    f"it takes {', '.join(known) or 'no settings'}{by_name}"
                )
    for name, value in settings.items():
        if not all(math.isfinite(number) for number in _numbers(value)):
            raise ConfigError(f"{key}.{name}={typed(value)} must be finite")
        # A default is right whatever its annotation says, as None of a `float`.
        if name in parameters and value != parameters[name].default and not _fits(value, _hint(parameters[name])):
            takes = _in_words(_hint(parameters[name]))
            raise ConfigError(f"{key}.{name}={typed(value)}: {target} takes {takes} there")
    for name, parameter in list(parameters.items())[num_given:]:
        optional = parameter.default is not parameter.empty or parameter.kind in VARIADIC
        if not optional and name not in settings and name not in given:
            raise ConfigError(f"{key}.{name} has no value, and {target} needs one; give one: {key}.{name}=...")


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory, eval_str=True).parameters
    except Exception:  # an annotation that only a type checker can read; as a string it holds nothing to a type
        return inspect.signature(factory).parameters


def _hint(parameter: inspect.Parameter) -> Any:
    """Return the type of a parameter's values: as annotated, or as its default has it."""
    default = parameter.default
    if parameter.annotation is not parameter.empty:
        return parameter.annotation
    if default is parameter.empty or default is None:
        return Any
    # 0 stands for 0.0 often enough; and where nothing is said, null may have a meaning too.
    return Optional[float if type(default) is int else type(default)]  # noqa: UP045 - a type made at run time


def _fits(value: Any, hint: Any) -> bool:
    """Return True if a value of a config is of the type `hint`; a type that is not known here takes anything.

    A Tensor, which a config cannot contain, takes nothing: torch.optim's `float | Tensor` is a float.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Annotated:
        return _fits(value, inner[0])
    if origin is Literal:
        return value in inner
    if hint in (None, NoneType):
        return value is None
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    kind = origin or hint
    if kind is tuple and inner and inner[-1] is not ...:
        return isinstance(value, SEQUENCES) and len(value) == len(inner) and all(map(_fits, value, inner))
    if kind in (tuple, list, Sequence, Iterable, Collection):
        return isinstance(value, SEQUENCES) and all(_fits(each, inner[0]) for each in value if inner)
    if kind in (dict, Mapping):
        return isinstance(value, dict)
    return not _is_tensor(hint)


def _is_tensor(hint: Any) -> bool:
    # By name: help and config errors must not wait for torch.
    return getattr(hint, "__name__", "") == "Tensor"


def _in_words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_in_words(one) for one in inner if not _is_tensor(one))
    if origin is Annotated:
        return _in_words(inner[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if hint in PLAIN:
        return PLAIN[hint]
    if (origin or hint) in (dict, Mapping):
        return "keys with values (dict)"
    items = [_in_words(one) for one in inner if one is not ...]
    length = f" of {len(inner)}" if origin is tuple and inner and inner[-1] is not ... else ""
    if len(set(items)) < 2:
        return f"a list{length}" + "".join(f", each {item}" for item in items[:1])
    return f"a list{length}: {', '.join(items)}"


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers of a setting, those in its lists included."""
    if isinstance(value, SEQUENCES):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, float):
        yield value


# The packages whose classes a `_target_` may name, by the part of the config. A config file can come from anywhere; it
# must not be a way to run `os.system`.
TRUSTED = {
    # Networks of torchvision and timm by their factories there, torchvision_model and timm_model, alone.
    "model": ("imgcls.models",),
    "optimizer": ("imgcls.training", "torch.optim", "timm.optim"),
    "schedule": ("imgcls.training",),
    "data.source": ("imgcls.data.sets",),
    "augment.crop": ("imgcls.data.augment",),
    "augment.eval_crop": ("imgcls.data.augment",),
    "augment.batch": ("imgcls.data.on_device",),  # each of its nodes
    "protocol": ("imgcls.inference",),
    "logger": ("imgcls.runs.loggers",),  # each of its nodes
}


def build_component(
    key: str,
    node: dict[str, Any],
    *arguments: Any,
    adapt: Callable[[Any], Any] = lambda factory: factory,
    **more: Any,
) -> Any:
    """Call the `_target_` of the config's part `key` with its settings, positional `arguments` and keywords `more`.

    Args:
        adapt: given the target, returns what to call instead, with the same signature.

    Raises:
        ConfigError: the target is not trusted, does not exist, lacks a setting, or does not take one or its value.
    """
    factory = locate(key, node.get("_target_") if isinstance(node, dict) else None)
    target = str(node["_target_"])
    settings = {name: value for name, value in node.items() if not name.startswith("_")}
    check_settings(key, target, factory, settings, num_given=len(arguments), given=more)
    try:
        return adapt(factory)(*arguments, **copy.deepcopy(settings), **more)
    except (ValueError, OSError, TypeError) as error:
        raise ConfigError(f"{key}: {error}") from error
    except (RuntimeError, ArithmeticError, LookupError, AttributeError, AssertionError) as error:
        # What a constructor raises for a setting that it does not check itself.
        if hasattr(error, "exit_code"):
            raise
        raise ConfigError(
            f"{key}: {target} cannot be built from its settings: {type(error).__name__}: {error}"
        ) from error


def locate(key: str, target: Any) -> Callable[..., Any]:
    if not isinstance(target, str):
        raise ConfigError(f"{key}._target_={target} is no name of a class")
    trusted = (*(TRUSTED.get(key) or TRUSTED[key.rpartition(".")[0]]), *trusted_packages())
    module_name, _, name = target.rpartition(".")
    if not any(target.startswith(f"{prefix}.") for prefix in trusted):
        package = target.partition(".")[0]
        own = "" if package in sys.stdlib_module_names else f"; if you trust the code of {package}: trust=[{package}]"
        raise ConfigError(f"{key}._target_={target} is not allowed; it must be below {' or '.join(trusted)}{own}")
    try:
        module = importlib.import_module(module_name)
        factory = getattr(module, name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key}._target_={target}: {error}") from error
    except AttributeError:
        # Callables alone: the submodule imgcls.models.resnet is not a network.
        known = [f"{module_name}.{other}" for other, value in vars(module).items() if callable(value)]
        hint = did_you_mean(target, known)
        raise ConfigError(f"{key}._target_={target}: {module_name} has no {name}{hint}") from None
    # A trusted module's own imports (`imgcls.data.loader.os`) are not what it offers.
    home = getattr(factory, "__module__", "") or ""
    if not callable(factory) or not any(f"{home}.".startswith(f"{prefix}.") for prefix in trusted):
        raise ConfigError(f"{key}._target_={target} is not allowed; it is not defined below {' or '.join(trusted)}")
    return factory
