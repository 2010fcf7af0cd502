"""What a run's files say of it, as one row of a table: its scores, and whether it runs, stopped, failed or finished."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout

from imgcls.metrics import METRICS, known_metrics, metric_of
from imgcls.runs.directory import CONFIG, FAILURE, LOCK, METRICS_FILE, RESULTS, without_content
from imgcls.runs.disk import lock_file
from imgcls.runs.saved import check_results, read_json, read_metrics


@dataclass(frozen=True)
class RunRow:
    """A run.

    Args:
        config: its flat settings; empty if it has not begun.
        state: finished, running, stopped, failed, damaged, not begun; `stopped or running` where no lock says which.
        reason: why it failed or is damaged.
        scores: of its best epoch so far, by the metrics' names.
        best_epoch, last_epoch: 0 if no epoch has ended.
        seconds, steps: of training and validation, and of training alone, once it has finished.
        images: what tells its data set from others of that name, once it has finished.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    state: str = "not begun"
    reason: str = ""
    scores: dict[str, float | None] = field(default_factory=dict)
    best_epoch: int = 0
    last_epoch: int = 0
    epochs: Any = "?"
    seconds: float | None = None
    steps: int | None = None
    images: dict[str, Any] | None = None

    @property
    def state_text(self) -> str:
        """The state with how far the run is, or why it failed."""
        if self.reason:
            return f"{self.state}: {self.reason}"
        if self.state in ("running", "stopped", "stopped or running"):
            return f"{self.state} {f'after epoch {self.last_epoch}' if self.last_epoch else 'in the first epoch'}"
        return self.state


def read_row(path: Path) -> RunRow:
    """Return the row of the run in `path`.

    Raises:
        ValueError: one of its files is damaged.
    """
    results = read_json(path / RESULTS, check=check_results)
    config = read_json(path / CONFIG)
    if results is not None:
        return RunRow(
            path,
            config or {},
            state="finished",
            scores=dict.fromkeys(METRICS) | _scores(results, "val_"),
            best_epoch=results["best_epoch"],
            last_epoch=results["epochs"],
            epochs=results["epochs"],
            seconds=results["seconds"],
            steps=results.get("steps"),
            images=without_content(results["data"]) if "data" in results else None,
        )
    if config is None:
        return RunRow(path)
    best, best_epoch, last_epoch = _best_so_far(path / METRICS_FILE, str(config.get("checkpoint.best_metric", "top1")))
    state, reason = _state(path)
    return RunRow(
        path,
        config,
        state=state,
        reason=reason,
        scores=best,
        best_epoch=best_epoch,
        last_epoch=last_epoch,
        epochs=config.get("epochs", "?"),
    )


def row_of(path: Path) -> RunRow:
    """Return the row of the run in `path`; of one that cannot be read the row says so."""
    try:
        return read_row(path)
    except ValueError as error:
        config: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            config = read_json(path / CONFIG) or {}
        return RunRow(path, config, state="damaged", reason=str(error))


def _state(path: Path) -> tuple[str, str]:
    """Return the state of a run that has begun and not finished, and why it failed."""
    running = _is_locked(path / LOCK)
    if running:
        return "running", ""
    if (path / FAILURE).is_file():
        return "failed", (path / FAILURE).read_text(errors="replace").strip() or "unknown"
    return ("stopped or running" if running is None else "stopped"), ""


def _is_locked(file: Path) -> bool | None:
    """Return whether a process has locked `file`, or None if that cannot be seen: no such file, or not ours."""
    if not file.exists():
        return None
    try:
        lock_file(file).release()
    except Timeout:
        return True
    except OSError:
        return None
    return False


def _scores(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the scores among the values of `row`, by the metrics' names."""
    return {name: row[prefix + name] for name in known_metrics(key.removeprefix(prefix) for key in row)}


def _best_so_far(file: Path, metric: str) -> tuple[dict[str, float | None], int, int]:
    # The scores of the best epoch, its number, and that of the last epoch.
    better = (metric_of(metric) or METRICS["top1"]).better
    best: dict[str, float | None] = {}
    best_epoch, last_epoch = 0, 0
    for row in read_metrics(file):
        if row["val/top1"]:
            last_epoch = int(row["epoch"])
            values = {name: float(cell) if cell else None for name, cell in _scores(row, "val/").items()}
            if better(values.get(metric), best.get(metric)):
                best, best_epoch = values, last_epoch
    return best, best_epoch, last_epoch
