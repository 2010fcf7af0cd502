"""TODO imgcls.runs.tables."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imgcls.errors import RunError
from imgcls.runs.directory import BEST, CONFIG, METRICS, RESULTS


class TooLowError(RunError):
    """A run whose accuracy is below what was asked of it."""


def require_top1(least_top1: float | None, results: dict[str, Any]) -> None:
    """Fail a run whose best validation top-1, in percent, is below `min_val_top1`.

    Raises:
        TooLowError: it is.
    """
    if least_top1 is not None and not results["val_top1"] >= least_top1:
        raise TooLowError(f"best validation top-1 is {results['val_top1']:.2f} %, below min_val_top1={least_top1:g}")


def results_table(results: dict[str, Any], path: Path) -> str:
    """Return a finished run's results and where to look, as a text table."""
    top5 = results["val_top5"]
    rows = {
        "best validation top-1": f"{results['val_top1']:.2f} %",
        "its top-5": "(fewer than 6 classes)" if top5 is None else f"{top5:.2f} %",
        "its loss": f"{results['val_loss']:.4f}",
        "epoch": f"{results['best_epoch']} of {results['epochs']}",
        "training steps": f"{results['steps']:,} in {duration_text(results['seconds'])}",
        "best weights": str(relative_to_here(path / BEST)),
        "metrics": str(relative_to_here(path / METRICS)),
        "curves": f"tensorboard --logdir {relative_to_here(path)}",
    }
    width = max(map(len, rows))
    line = "-" * min(79, width + 2 + max(map(len, rows.values())))
    return "\n".join([line, *(f"{key:<{width}}  {value}" for key, value in rows.items()), line])


def relative_to_here(path: Path) -> str:
    """Return the path as a user standing here would type it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Return every run's directory in or below `folders`, sorted.

    Raises:
        FileNotFoundError: a folder is not there.
    """
    found = set()
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder; runs lie in runs/<model>-<data>/<overrides>")
        found |= {file.parent for file in folder.rglob(CONFIG)}
    return sorted(found)


def runs_table(directories: Iterable[Path]) -> str:
    """Return the runs as a text table, the best validation top-1 first, the unfinished marked as such."""
    rows = sorted((_row(path) for path in directories), key=lambda row: -row["sort"])
    if not rows:
        return "no runs"
    columns = ("run", "top-1 %", "top-5 %", "epoch", "time", "state")
    cells = [list(columns), *([row[column] for column in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _row(path: Path) -> dict[str, Any]:
    results_file = path / RESULTS
    if results_file.exists():
        results = json.loads(results_file.read_text())
        top1, top5, epoch, epochs = (results[key] for key in ("val_top1", "val_top5", "best_epoch", "epochs"))
        state, seconds = "finished", results["seconds"]
    else:
        top1, top5, epoch, reached = _best_so_far(path / METRICS)
        config = path / CONFIG
        epochs = json.loads(config.read_text()).get("epochs", "?") if config.exists() else "?"
        begun = f"stopped or running after epoch {reached}" if reached else "no epoch finished"
        state, seconds = begun if config.exists() else "not begun", None
    return {
        "run": relative_to_here(path),
        "top-1 %": "-" if top1 is None else f"{top1:.2f}",
        "top-5 %": "-" if top5 is None else f"{top5:.2f}",
        "epoch": f"{epoch} of {epochs}" if epoch else "-",
        "time": "-" if seconds is None else duration_text(seconds),
        "state": state,
        "sort": -1.0 if top1 is None else top1,
    }


def _best_so_far(file: Path) -> tuple[float | None, float | None, int, int]:
    best_top1, best_top5, best_epoch, reached = None, None, 0, 0
    if file.exists():
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                if row["val/top1"]:
                    reached = int(row["epoch"])
                    top1, top5 = float(row["val/top1"]), float(row["val/top5"]) if row["val/top5"] else None
                    if best_top1 is None or top1 > best_top1:
                        best_top1, best_top5, best_epoch = top1, top5, reached
    return best_top1, best_top5, best_epoch, reached


def duration_text(seconds: float) -> str:
    """Return `1:02:03` for 3723 seconds, `2:03` for 123."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
