"""The results of a run as a table, and where runs are."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imgcls.errors import RunError
from imgcls.metrics import METRICS, known_metrics
from imgcls.runs.directory import BEST, CONFIG, METRICS_FILE


class TooLowError(RunError):
    """The accuracy of a run is below `min_val_top1`."""


def require_top1(least_top1: float | None, results: dict[str, Any]) -> None:
    """Check the best validation top-1, in percent, against `min_val_top1`.

    Raises:
        TooLowError: it is lower.
    """
    if least_top1 is not None and not results["val_top1"] >= least_top1:
        raise TooLowError(f"best validation top-1 is {results['val_top1']:.2f} %, below min_val_top1={least_top1:g}")


def results_table(results: dict[str, Any], path: Path) -> str:
    """Return a finished run's results and where to look, as a text table."""
    best = relative_to_here(path / BEST)
    rows = {
        "best validation top-1": METRICS["top1"].text(results["val_top1"]),
        **{
            f"its {metric.title}": metric.text(results[f"val_{name}"])
            for name, metric in known_metrics(key.removeprefix("val_") for key in results).items()
            if name != "top1"
        },
        **_nothing_learnt(results),
        "epoch": f"{results['best_epoch']} of {results['epochs']}",
        **({"ended early": str(results["ended"])} if "ended" in results else {}),
        "training steps": f"{results['steps']:,} in {duration_text(results['seconds'])}",
        "best weights": best if (path / BEST).exists() else f"none: {best} is gone",
        "metrics": str(relative_to_here(path / METRICS_FILE)),
        "curves": f"tensorboard --logdir {relative_to_here(path)}",
    }
    width = max(map(len, rows))
    line = "-" * min(79, width + 2 + max(map(len, rows.values())))
    return "\n".join([line, *(f"{key:<{width}}  {value}" for key, value in rows.items()), line])


def _nothing_learnt(results: dict[str, Any]) -> dict[str, str]:
    """Return a row for the table if the best top-1 is hardly above what guessing gives."""
    num_classes = results.get("data", {}).get("classes")
    if not num_classes:
        return {}
    low, majority = max(1.5 * 100 / num_classes, 100 / num_classes + 1), results.get("val_majority") or 0.0
    balanced = results.get("val_balanced")
    if results["val_top1"] > max(low, majority) or (balanced is not None and balanced > low):
        return {}
    if majority > low:
        always = METRICS["top1"].text(majority)
        return {"it learnt nothing": f"always naming the largest class gives {always}; try class_weights=balanced"}
    guessing = METRICS["top1"].text(100 / num_classes)
    return {"it learnt nothing": f"guessing gives {guessing}; try more epochs, or another optimizer.lr"}


def relative_to_here(path: Path) -> str:
    """Return the path as a user would type it in the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Return every run's directory in or below `folders`, sorted.

    Raises:
        FileNotFoundError: a folder is not there.
    """
    runs = set()
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder; runs are in runs/<model>-<data>/<overrides>")
        runs |= {file.parent for file in folder.rglob(CONFIG)}
    return sorted(runs)


def duration_text(seconds: float) -> str:
    """Return `1:02:03` for 3723 seconds, `2:03` for 123."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def epochs_text(number: int) -> str:
    """Return `1 epoch`, `2 epochs`."""
    return f"{number} epoch{'' if number == 1 else 's'}"
