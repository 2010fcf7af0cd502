"""What a logger is: the interface that TensorBoard and the others have."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Place:
    """What is logged.

    Args:
        path: the directory of the run, or of the results of a test.
        name: what a service calls it.
        run_id: what the service calls it, if it has been logged before and goes on; None is a new one.
        goes_on: False if what is there is of an earlier run, which this one replaces.
    """

    path: Path
    name: str
    run_id: str | None = None
    goes_on: bool = False


@dataclass(frozen=True)
class Description:
    """What is trained.

    Args:
        settings: the config, with the model, the run and what is compared first under short names.
        config: the same by its dotted keys.
        command: that trains it.
        charts: the tags of numbers that belong together, by the titles of their charts.
    """

    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    command: str
    charts: Mapping[str, list[str]]


class Logger(Protocol):
    """Takes the numbers and pictures of a run; a class with this interface may stand in `logger`.

    Building one only takes its settings. It is open from `open` to `close`, on the main rank alone.
    """

    may_fail: bool  # True of a service: without it the run goes on

    def open(self, place: Place) -> str | None:
        """Begin to log, or go on; return the name by which the service will know the run again, if it has one."""
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by their tags, such as `eval/top1`, after optimizer step `step`."""
        ...

    def image(self, tag: str, image: "np.ndarray", step: int) -> None:
        """Take a picture (H, W, C), uint8, of 1 or 3 channels."""
        ...

    def describe(self, description: Description) -> None:
        """Take what is trained, before the first number."""
        ...

    def flush(self) -> None:
        """Write everything out."""
        ...

    def close(self, *, finished: bool) -> None:
        """Stop logging; `finished` says whether the run came to its end."""
        ...


def check_package(name: str, package: str, extra: str) -> None:
    """Check that the package of the logger `name` is installed, without importing it.

    Raises:
        ValueError: it is not; with the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{name} needs the package {package}, which is not installed: pip install {extra}, or this project as "
            f"imgcls[{package}]"
        )
