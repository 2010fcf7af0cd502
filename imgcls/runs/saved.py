"""Read what a run has saved, with each file checked for what its readers need: it may be damaged, or edited."""

import csv
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgcls.errors import ConfigError

METRICS_COLUMNS = {"epoch": int, "step": int}
PLAIN_NUMBERS = ("best_epoch", "epochs", "steps", "seconds")


def check_regular(file: Path) -> None:
    """Refuse a folder, pipe or device in place of a file: a pipe would be waited for without end.

    Raises:
        ConfigError: it is none. A file that does not exist is not refused.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:  # a symbolic link to itself, a folder that may not be searched
        raise ConfigError(f"{file} cannot be read: {error.strerror}; remove it") from None
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{file} is no file but a folder, a pipe or a device; remove it")


def read_json(file: Path, *, check: Callable[[dict[str, Any]], None] = lambda content: None) -> dict[str, Any] | None:
    """Return the keys and values in a JSON file of a run; None if there is none.

    Args:
        check: raises ValueError where the content is not what its readers need.

    Raises:
        ValueError: the file is damaged.
    """
    check_regular(file)
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError("it has no keys and values")
        check(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({error}); restore it, or train from scratch in that directory (overwrite=true)"
        ) from None
    return content


def check_results(results: dict[str, Any]) -> None:
    """Raise ValueError if a finished run's results lack what its tables show, or have another type."""
    for key in ("val_top1", *PLAIN_NUMBERS):
        if not is_number(results.get(key)):
            raise ValueError(f"{key} is no number")
    for key, value in results.items():
        if key.startswith("val_") and value is not None and not is_number(value):
            raise ValueError(f"{key} is no number")
    if not 0 <= results["seconds"] < 1e12:
        raise ValueError("seconds is no time")
    if not isinstance(results.get("data", {}), dict):
        raise ValueError("data has no keys and values")


def is_number(value: Any) -> bool:
    """Return True for a number; True and False, which Python counts among them, are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_metrics(file: Path) -> list[dict[str, str]]:
    """Return the rows of a metrics.csv whose numbers are numbers; none if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    check_regular(file)
    if not file.exists():
        return []
    try:
        with file.open(newline="") as lines:
            rows = [dict(row) for row in csv.DictReader(lines)]
        for number, row in enumerate(rows, start=2):
            _check_row(row, number)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}); restore it, or remove it") from None
    return rows


def _check_row(row: dict[Any, Any], number: int) -> None:
    if None in row or None in row.values() or not {"epoch", "step", "val/top1"} <= row.keys():
        raise ValueError(f"line {number} has other columns")
    for column, cell in row.items():
        try:
            METRICS_COLUMNS.get(column, float)(cell or "0")
        except ValueError:
            raise ValueError(f"{column} in line {number} is no number") from None
