"""A CSV of jobs (`sweep.file=jobs.csv`): a column for each key, a line for each job."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.errors import HydraException

from imgcls.config.hydra_internals import parse_overrides
from imgcls.errors import ConfigError

KEY = "sweep.file"


class JobLine(NamedTuple):
    """A line of the file: its place, as `jobs.csv, line 3`, and the words of its cells."""

    place: str
    words: list[str]


def split_file(words: Iterable[str]) -> tuple[Path | None, list[str]]:
    """Return the file that `sweep.file=` names, or None, and the other words."""
    words = list(words)
    named = [word.partition("=")[2] for word in words if word.partition("=")[0].lstrip("+") == KEY]
    others = [word for word in words if word.partition("=")[0].lstrip("+") != KEY]
    name = named[-1].strip("'\"") if named else "null"
    return (None if name == "null" else Path(name).expanduser()), others


def read_job_lines(file: Path, known: Iterable[str]) -> list[JobLine]:
    """Return the jobs of a CSV; an empty cell leaves its key as it is, a line that begins with # is a comment.

    Args:
        known: the words of the command line, whose keys may not be columns as well.

    Raises:
        ConfigError: the file is not there, or is no such table.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigError(f"{KEY}={file}: {reason}") from None
    # A table program of a country with decimal commas separates by semicolons.
    first = next((line for line in text.splitlines() if not _is_empty(line)), "")
    separator = next((sign for sign in (",", ";", "\t") if sign in first), ",")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if not _is_empty(line)]
    rows = [(number, *csv.reader([line], delimiter=separator)) for number, line in lines]
    if len(rows) < 2:
        raise ConfigError(
            f"{KEY}={file} lists no jobs; write a first line of keys, as model,seed, and a line for each job"
        )
    (_, header), *rest = rows
    keys = _keys(file, header, known)
    return [_job_line(f"{file.name}, line {number}", keys, cells) for number, cells in rest]


def _is_empty(line: str) -> bool:
    return not line.strip(" \t,;") or line.lstrip().startswith("#")


def _keys(file: Path, header: Sequence[str], known: Iterable[str]) -> list[str]:
    keys = [key.strip() for key in header]
    typed = {word.partition("=")[0].lstrip("+~") for word in known}
    for number, key in enumerate(keys, start=1):
        if not key:
            raise ConfigError(f"{KEY}={file}: column {number} has no key in the first line")
        if "=" in key or " " in key:
            raise ConfigError(f"{KEY}={file}: {key} in the first line is no key; write keys there, as model,seed")
        if keys.count(key) > 1:
            raise ConfigError(f"{KEY}={file}: {key} has two columns; leave one out")
        if key.lstrip("+~") in typed:
            raise ConfigError(f"{KEY}={file}: {key} is a column and on the command line; leave one out")
        if key.startswith(("sweep.", "hydra")):
            raise ConfigError(f"{KEY}={file}: {key} is of the whole sweep; write it on the command line")
    return keys


def _job_line(place: str, keys: Sequence[str], cells: Sequence[str]) -> JobLine:
    if len(cells) != len(keys):
        raise ConfigError(f"{place} has {len(cells)} cells, and there are {len(keys)} keys; quote a cell with commas")
    words = [f"{key}={cell.strip()}" for key, cell in zip(keys, cells, strict=True) if cell.strip()]
    try:
        overrides = parse_overrides(words)
    except HydraException as error:
        raise ConfigError(f"{place}: {' '.join(str(error).split())}") from None
    for word, override in zip(words, overrides, strict=True):
        if override.is_sweep_override():
            raise ConfigError(f"{place}: {word} has several values, and a line is one job; write a line for each")
    return JobLine(place, words)
