"""One place for each setting: its default, the values it takes, and what else the program must know of it."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from imgcls.config.image_size import ImageSize
from imgcls.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Rule:
    """What is known of a setting besides its type and its default.

    Args:
        least, most: the smallest and the largest value.
        above, below: bounds that the value may not reach.
        one_of: the values that there are.
        or_above: a finite number above it is allowed beside them.
        hint: the end of the error about a value that is not allowed.
        incidental: it does not change a run's result: it is left out of the run directory's name, and a run may be
            resumed with another value.
        earlier: what releases without the setting did, where that is not what its default does.
        fixed: `continue_run=true` cannot change it: what a run has saved is of no use with another value.
        is_path: its value is a path or a URL, which needs no quotes on the command line.
        is_flag: its values are true and false; known from its type.
        is_image_size: its value is a size of images, as `ImageSize.of` reads it.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    one_of: tuple[str, ...] | None = None
    or_above: float | None = None
    hint: str = ""
    incidental: bool = False
    earlier: Any = None
    fixed: bool = False
    is_path: bool = False
    is_flag: bool = False
    is_image_size: bool = False

    def check(self, key: str, value: Any) -> None:
        """Refuse a value that is not allowed; null always is, where the type takes it.

        Raises:
            ConfigError: naming the key, the value, and the values that are allowed.
        """
        if value is None:
            return
        if self.is_image_size:
            try:
                ImageSize.of(value)
            except ValueError as error:
                raise ConfigError(f"{key}={value} {error}") from error
        if self.one_of is not None and value not in self.one_of and not self._is_number(value):
            numbers = "" if self.or_above is None else f", and no number above {self.or_above:g}"
            hint = did_you_mean(str(value), self.one_of)
            raise ConfigError(f"{key}={value} is none of {', '.join(self.one_of)}{numbers}{hint}")
        # A comparison with nan is false, so nan is refused wherever there is a bound.
        inside = (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if not inside:
            raise ConfigError(f"{key}={value} {self._bounds()}{f'; {self.hint}' if self.hint else ''}")

    def _is_number(self, value: Any) -> bool:
        """Return True for a number that stands beside the values of `one_of`."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.or_above is not None and self.or_above < value < math.inf

    def _bounds(self) -> str:
        if self.least is not None and self.most is not None:
            return f"must be between {self.least} and {self.most}"
        if self.least is not None and self.below is None:
            return f"is too small; use at least {self.least}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        words = [f"{name} {bound}" for name, bound in bounds.items() if bound is not None]
        return "must be " + " and ".join(words).replace(f"below {math.inf}", "finite")


def setting(default: Any, **rule: Any) -> Any:
    """Return a field of a config class with its default and its `Rule`: `setting(4, least=1, incidental=True)`."""
    metadata = {"rule": Rule(**rule)}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(kind: type, prefix: str = "", *, incidental: bool = False) -> Iterator[tuple[str, Rule]]:
    """Yield each setting of a config class by its dotted key, those of its parts included.

    A part that is `incidental` makes all of its settings so.
    """
    for field in dataclasses.fields(kind):
        rule = field.metadata.get("rule", Rule())
        rule = dataclasses.replace(rule, incidental=rule.incidental or incidental, is_flag=field.type is bool)
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from settings_of(field.type, f"{prefix}{field.name}.", incidental=rule.incidental)
        else:
            yield f"{prefix}{field.name}", rule


def typed(value: Any) -> str:
    """Return a plain value as it is typed on the command line: null for None, true for True."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def check_rules(config: Any, prefix: str = "") -> None:
    """Check each setting of a config, or of the part of one whose keys begin with `prefix`.

    Raises:
        ConfigError: naming the key, the value, and the values that are allowed.
    """
    for key, rule in settings_of(type(config)):
        rule.check(f"{prefix}{key}", select(config, key))


def shorten_image_sizes(config: Any) -> None:
    """Write each size [224,224] of a checked config as 224, so that both are the same run."""
    for key, rule in settings_of(type(config)):
        if rule.is_image_size and select(config, key) is not None:
            set_setting(config, key, ImageSize.of(select(config, key)).setting)


def set_setting(config: Any, key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    part, _, name = key.rpartition(".")
    setattr(select(config, part) if part else config, name, value)


def is_given(config: Any, key: str) -> bool:
    """Return True if the command line sets the dotted key of a run's config, or a part of its value."""
    return any(f"{given}.".startswith(f"{key}.") for given in config.given)


def select(config: Any, key: str) -> Any:
    """Return the value of a dotted key."""
    for part in key.split("."):
        config = getattr(config, part)
    return config
