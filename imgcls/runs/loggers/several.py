"""The loggers of a run or a test, opened, used and closed together."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from imgcls.config import build_component
from imgcls.errors import text_of
from imgcls.runs.directory import LOGGERS
from imgcls.runs.loggers.logger import Logger, Place

log = logging.getLogger(__name__)


def build_loggers(nodes: Mapping[str, dict[str, Any]]) -> dict[str, Logger]:
    """Build the loggers of a config's `logger`, by their names there; none is open yet.

    Raises:
        ConfigError: a class that is not trusted, a setting that it does not take, or a package that is not installed.
    """
    return {name: build_component(f"logger.{name}", node) for name, node in nodes.items()}


class OpenLoggers:
    """The loggers that are open, none at first."""

    def __init__(self) -> None:
        self._open: dict[str, Logger] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def open(self, loggers: Mapping[str, Logger], path: Path, *, goes_on: bool) -> None:
        """Open loggers for the run, or the results, in `path`.

        Args:
            goes_on: whether it has been logged before and is resumed; a service goes on with the same run then.

        Raises:
            ConfigError: a service does not answer, or does not take this user.
        """
        known = _read_ids(path / LOGGERS) if goes_on else {}
        for name, logger in loggers.items():
            place = Place(path, f"{path.parent.name}/{path.name}", known.get(name), goes_on)
            if run_id := logger.open(place):
                known[name] = run_id
            self._open[name] = logger
        if known:
            (path / LOGGERS).write_text(json.dumps(known) + "\n")
        else:
            (path / LOGGERS).unlink(missing_ok=True)

    def each(self, use: Callable[[Logger], None]) -> None:
        """Call `use` with each logger; a service that fails is left out from then on, and the log says so."""
        for name, logger in list(self._open.items()):
            try:
                use(logger)
            except Exception as error:
                if not logger.may_fail:
                    raise
                del self._open[name]
                log.warning("logger=%s failed, and gets nothing more in this run: %s", name, text_of(error))

    def close(self, *, finished: bool) -> None:
        """Close all of them; `finished` says whether the run came to its end."""
        self.each(lambda logger: logger.close(finished=finished))
        self._open.clear()


def _read_ids(file: Path) -> dict[str, str]:
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(run_id) for name, run_id in known.items()} if isinstance(known, dict) else {}
