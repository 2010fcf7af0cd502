"""How long a sweep will take, from finished runs of the same model and data."""

import contextlib
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from imgcls.config import Job
from imgcls.runs import CONFIG, RESULTS, check_results, duration_text, read_json


class Past(NamedTuple):
    """A finished run: its flat config, and what it took."""

    config: dict[str, Any]
    seconds: float
    epochs: int
    steps: int


def past_runs(folder: Path) -> list[Past]:
    """Return the finished runs in a folder such as runs/resnet18-cifar10; damaged ones are left out."""
    found = []
    for file in folder.glob(f"*/{RESULTS}"):
        with contextlib.suppress(ValueError):
            results, config = read_json(file, check=check_results), read_json(file.parent / CONFIG)
            if results and config and results["epochs"] > 0 and results["steps"] > 0:
                found.append(Past(config, results["seconds"], results["epochs"], results["steps"]))
    return found


def job_seconds(job: Job, past: Iterable[Past]) -> float | None:
    """Return about how long a job takes, by finished runs of its model and data, or None if there are none.

    By those with its image size if there are any, or else by the number of pixels.
    """
    past = list(past)
    size = job.config.image_size
    alike = [run for run in past if run.config.get("image_size") == size] or past
    seconds = []
    for run in alike:
        pixels = (size / run.config["image_size"]) ** 2 if run.config.get("image_size") else 1.0
        whole = run.seconds / run.epochs * (job.config.epochs or run.epochs)
        if job.config.max_steps is not None:
            whole = min(whole, run.seconds / run.steps * job.config.max_steps)
        seconds.append(whole * pixels)
    return statistics.median(seconds) if seconds else None


def forecast(jobs: Iterable[Job], slots: int) -> str | None:
    """Return a line on how long the jobs take that are still to run, or None if no run tells."""
    folders: dict[Path, list[Past]] = {}
    jobs, known = list(jobs), []
    for job in jobs:
        folder = job.path.parent
        past = folders.setdefault(folder, past_runs(folder) if folder not in folders else [])
        if (seconds := job_seconds(job, past)) is not None:
            known.append(seconds)
    if not known:
        return None
    number = sum(map(len, folders.values()))
    of = "" if len(known) == len(jobs) else f" for {len(known)} of {len(jobs)} jobs, the others unknown"
    runs = (
        f"{number} finished run{'s' if number > 1 else ''} of the same model{'s' if len(folders) > 1 else ''} and data"
    )
    return f"time: about {duration_text(max(sum(known) / slots, max(known)))}{of}, by {runs}"
