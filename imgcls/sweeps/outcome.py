"""How a job of a sweep ended, and how far a running one is, from the files of its run."""

import time
from dataclasses import dataclass
from pathlib import Path

from imgcls.config import Job
from imgcls.metrics import METRICS
from imgcls.runs import METRICS_FILE, RESULTS, TooLowError, check_results, read_json, read_metrics, require_top1
from imgcls.startup import look_up_run

STATES = ("waiting", "running", "finished", "stopped", "failed", "pruned")


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        state: one of STATES.
        error: the last line of what ended it, if it failed.
        log: the file with all that it printed.
        seconds: in this start of the sweep.
        value: the run's best value of the metric that chooses its best epoch.
        already: it had finished before this start.
    """

    job: Job
    state: str
    error: str = ""
    log: str = ""
    seconds: float = 0.0
    value: float | None = None
    already: bool = False


def best_value(job: Job) -> float | None:
    """Return the best value of `checkpoint.best_metric` in the results of a finished run, or None."""
    results = read_json(job.path / RESULTS, check=check_results)
    return None if results is None else results.get(f"val_{job.config.checkpoint.best_metric}")


def finished(job: Job) -> Outcome | None:
    """Return the outcome of a job whose run has finished before, which needs no process, or None.

    Raises:
        ValueError: its directory holds a run of another config or of other images.
    """
    if job.config.overwrite or not (job.path / RESULTS).exists():
        return None
    _, results, _ = look_up_run(job.config, job.path)
    if results is None:
        return None
    try:
        require_top1(job.config.min_val_top1, results)
    except TooLowError as error:
        return Outcome(job, "failed", error=str(error), log=str(job.path / "train.log"), already=True)
    return Outcome(job, "finished", value=best_value(job), already=True)


class Follower:
    """Follow a running job by its metrics.csv."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.started = time.monotonic()
        self.values: list[float | None] = []  # of the metric that chooses the best epoch, one an epoch
        self.top1: float | None = None
        self.epochs = job.config.epochs or None
        self.share = 0.0
        self._first: tuple[float, float] | None = None  # time and share when it was first seen
        self._last = (self.started, 0.0)  # when the share last grew
        self._seen = (0, 0)

    def look(self) -> bool:
        """Read what is new; return True if there is anything."""
        file = self.job.path / METRICS_FILE
        try:
            stat = file.stat()
            if (stat.st_mtime_ns, stat.st_size) == self._seen:
                return False
            self._seen = (stat.st_mtime_ns, stat.st_size)
            rows = read_metrics(file)
        except (OSError, ValueError):  # a line is half written
            return False
        ends = [row for row in rows if row["val/top1"]]
        self.values = [_number(row.get(f"val/{self.job.config.checkpoint.best_metric}")) for row in ends]
        self.top1 = None
        for row in ends:
            value = _number(row["val/top1"])
            if METRICS["top1"].better(value, self.top1):
                self.top1 = value
        self.share = self._share(rows, ends)
        now = time.monotonic()
        if self._first is None:  # a resumed run begins with what it has done before
            self._first = (now, self.share) if now - self.started < 5 else (self.started, 0.0)
        if self.share > self._last[1]:
            self._last = (now, self.share)
        return True

    def _share(self, rows: list[dict[str, str]], ends: list[dict[str, str]]) -> float:
        """Return how much of the run is done, from 0 to 1."""
        if not rows or not ends:
            return 0.0
        steps = int(ends[0]["step"]) / int(ends[0]["epoch"]) * (self.epochs or float("inf"))
        return min(1.0, int(rows[-1]["step"]) / min(steps, self.job.config.max_steps or float("inf")))

    @property
    def seconds_left(self) -> float | None:
        """About how long the run still takes, or None before its first epoch has ended."""
        if self._first is None or self._last[1] <= self._first[1]:
            return None
        seconds = (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])
        return max(0.0, seconds * (1 - self._last[1]) - (time.monotonic() - self._last[0]))


def _number(cell: str | None) -> float | None:
    return float(cell) if cell else None


def last_line(log: Path, start: int) -> str:
    """Return the error in what a job wrote to its log after `start`: its last `error: ...`, or its last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - 65536))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]
