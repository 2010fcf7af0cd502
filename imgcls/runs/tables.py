"""Tables of runs as text: the results of one, and a ranking of several."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imgcls.errors import RunError
from imgcls.metrics import METRICS, PERCENTS
from imgcls.runs.directory import BEST, CONFIG, METRICS_FILE, RESULTS
from imgcls.runs.saved import check_results, check_top1, read_json, read_metrics
from imgcls.runs.statistics import confidence_interval, without_seed


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
            f"its {METRICS[name].title}": METRICS[name].text(results[f"val_{name}"])
            for name in METRICS
            if name != "top1" and f"val_{name}" in results  # a run of an earlier release has fewer metrics
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
    return {"it learnt nothing": f"guessing gives {guessing}; the log above says what to try"}


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


def runs_table(directories: Iterable[Path]) -> str:
    """Return the runs as a text table, the best validation top-1 first; the state says which have not finished."""
    rows = sorted((_row(path) for path in directories), key=lambda row: -row["sort"])
    if not rows:
        return "no runs"
    columns = ("run", *(f"{METRICS[name].title} %" for name in PERCENTS), "epoch", "time", "state")
    cells = [list(columns), *([row[column] for column in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _row(path: Path) -> dict[str, Any]:
    if (results := read_json(path / RESULTS, check=check_results)) is not None:
        best = {name: results.get(f"val_{name}") for name in PERCENTS}
        epoch, epochs = results["best_epoch"], results["epochs"]
        state, seconds = "finished", results["seconds"]
    else:
        best, epoch, last_epoch = _best_so_far(path / METRICS_FILE)
        config = read_json(path / CONFIG)
        epochs = (config or {}).get("epochs", "?")
        started = f"stopped or running after epoch {last_epoch}" if last_epoch else "no epoch finished"
        state, seconds = started if config is not None else "not begun", None
    percents = {f"{METRICS[name].title} %": best.get(name) for name in PERCENTS}
    return {
        "run": relative_to_here(path),
        **{title: "-" if value is None else f"{value:.2f}" for title, value in percents.items()},
        "epoch": f"{epoch} of {epochs}" if epoch else "-",
        "time": "-" if seconds is None else duration_text(seconds),
        "state": state,
        "sort": best.get("top1", -1.0),
    }


def _best_so_far(file: Path) -> tuple[dict[str, float | None], int, int]:
    # The percents of the best epoch by top-1, its number, and that of the last epoch.
    best: dict[str, float | None] = {}
    best_epoch, last_epoch = 0, 0
    for row in read_metrics(file):
        if row["val/top1"]:
            last_epoch = int(row["epoch"])
            values = {name: float(cell) if (cell := row.get(f"val/{name}")) else None for name in PERCENTS}
            if METRICS["top1"].better(values["top1"], best.get("top1")):
                best, best_epoch = values, last_epoch
    return best, best_epoch, last_epoch


def seeds_table(directories: Iterable[Path]) -> list[str]:
    """Return a line for each group of finished runs that differ only in the seed: mean top-1 and its 95 % interval."""
    groups: dict[str, list[tuple[Path, int]]] = {}
    for path in directories:
        config = read_json(path / CONFIG) or {}
        if (path / RESULTS).is_file() and "seed" in config:
            key = json.dumps(without_seed(config), sort_keys=True)
            groups.setdefault(key, []).append((path, config["seed"]))
    return [
        _over_seeds([path for path, _ in group])
        for group in groups.values()
        if len({seed for _, seed in group}) == len(group) > 1
    ]


def _over_seeds(repetitions: list[Path]) -> str:
    finished = [read_json(path / RESULTS, check=check_top1) for path in repetitions]
    interval = confidence_interval([results["val_top1"] for results in finished if results is not None])
    runs = f"{repetitions[0]} and {len(repetitions) - 1} more, over {len(repetitions)} seeds"
    return f"{runs}: {METRICS['top1'].title} {interval} % (95 % interval)"


def duration_text(seconds: float) -> str:
    """Return `1:02:03` for 3723 seconds, `2:03` for 123."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
