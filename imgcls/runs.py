"""The directory of a run: whose it is, what it holds, and the table of several.

Imports no torch: the table of a folder of runs comes at once.
"""

import csv
import fcntl
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imgcls import __version__

CONFIG = "config.json"
RESULTS = "results.json"
METRICS = "metrics.csv"
LAST = "last.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"
LOCK = "lock"


class RunDirectory:
    """One run's directory, held by this process until `close`.

    Args:
        path: made if it is not there.
        config: what the run's result depends on, as flat keys; kept in config.json and compared with what is there.
        overwrite: throw away the run that is there.
        lock: false on ranks that only read here, beside the one that holds the directory.

    Raises:
        ValueError: another process trains here, or the directory holds a run of another config.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, overwrite: bool = False, lock: bool = True) -> None:
        self.path = path
        self._lock = None
        if not lock:
            return
        path.mkdir(parents=True, exist_ok=True)
        # The lock is the kernel's, so it goes with its process, however that ends.
        self._lock = (path / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if overwrite:
                self._clear()
            self._claim(config)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(
                f"{path}: another process is training in this directory; "
                "wait for it, or give this run a name of its own (name=...)"
            ) from None
        except BaseException:
            self._lock.close()
            raise

    def _claim(self, config: dict[str, Any]) -> None:
        # Through JSON and back, so that what was read compares with what is asked for.
        config = json.loads(json.dumps(config, default=str))
        file = self.path / CONFIG
        if not file.exists():
            _write_whole(file, config)
            return
        there = json.loads(file.read_text())
        differences = [
            f"{key}: {there.get(key, 'not set')} there, {config.get(key, 'not set')} now"
            for key in sorted(there.keys() | config.keys())
            if there.get(key) != config.get(key)
        ]
        if differences:
            shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
            raise ValueError(
                f"{self.path} holds a run of another config ({shown}); give this run a name of its own (name=...), "
                "or train anew in that directory (overwrite=true)"
            )

    def _clear(self) -> None:
        ours = (RESULTS, METRICS, LAST, PREVIOUS, BEST, "epoch_*.pt", "*.partial", "*.damaged", "events.out.tfevents.*")
        # The config last: a kill in between leaves a run that is still known for what it is.
        for pattern in (*ours, CONFIG):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)

    @property
    def checkpoints(self) -> list[Path]:
        """Where a run to take up again may be saved, newest first."""
        return [self.path / LAST, self.path / PREVIOUS]

    def results(self) -> dict[str, Any] | None:
        """Return the results of a run that has finished, or None."""
        file = self.path / RESULTS
        return json.loads(file.read_text()) if file.exists() else None

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results, which marks the run as finished."""
        if self._lock is None:
            return
        _write_whole(self.path / RESULTS, results)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _write_whole(file: Path, content: dict[str, Any]) -> None:
    # Renamed into place, so that a kill leaves no half of it.
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(file)


class TooLowError(RuntimeError):
    """A run whose accuracy is below what was asked of it."""

    exit_code = 1


def hold_to(least_top1: float | None, results: dict[str, Any]) -> None:
    """Fail a run whose best validation top-1, in percent, is below `min_val_top1`.

    Raises:
        TooLowError: it is.
    """
    if least_top1 is not None and not results["val_top1"] >= least_top1:
        raise TooLowError(f"best validation top-1 is {results['val_top1']:.2f} %, below min_val_top1={least_top1:g}")


def summary(results: dict[str, Any], path: Path) -> str:
    """Return a finished run's results and where to look, as a text table."""
    top5 = results["val_top5"]
    rows = {
        "best validation top-1": f"{results['val_top1']:.2f} %",
        "its top-5": "(fewer than 6 classes)" if top5 is None else f"{top5:.2f} %",
        "its loss": f"{results['val_loss']:.4f}",
        "epoch": f"{results['best_epoch']} of {results['epochs']}",
        "training steps": f"{results['steps']:,} in {duration(results['seconds'])}",
        "best weights": str(_shown(path / BEST)),
        "metrics": str(_shown(path / METRICS)),
        "curves": f"tensorboard --logdir {_shown(path)}",
    }
    width = max(map(len, rows))
    line = "-" * min(79, width + 2 + max(map(len, rows.values())))
    return "\n".join([line, *(f"{key:<{width}}  {value}" for key, value in rows.items()), line])


def _shown(path: Path) -> str:
    """Return the path as a user standing here would type it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def code_version() -> str:
    """Return imgcls' version, with the commit where this is a git checkout: `0.1.0 (1a2b3c4, changed)`."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=, changed"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    commit = described.stdout.strip()
    return f"{__version__} ({commit})" if described.returncode == 0 and commit else __version__


def find(folders: Iterable[Path]) -> list[Path]:
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


def table(directories: Iterable[Path]) -> str:
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
        epochs = json.loads((path / CONFIG).read_text()).get("epochs", "?")
        state, seconds = f"stopped or running after epoch {reached}" if reached else "no epoch finished", None
    return {
        "run": _shown(path),
        "top-1 %": "-" if top1 is None else f"{top1:.2f}",
        "top-5 %": "-" if top5 is None else f"{top5:.2f}",
        "epoch": f"{epoch} of {epochs}" if epoch else "-",
        "time": "-" if seconds is None else duration(seconds),
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


def duration(seconds: float) -> str:
    """Return `1:02:03` for 3723 seconds, `2:03` for 123."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
