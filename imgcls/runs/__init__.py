"""TODO imgcls.runs."""

from imgcls.runs.directory import (
    BEST,
    CONFIG,
    LAST,
    LOCK,
    METRICS,
    PREVIOUS,
    RESULTS,
    RunDirectory,
    check_same_run,
    code_version,
)
from imgcls.runs.disk import DiskError, explain_disk_errors
from imgcls.runs.events import COLUMNS, Events, grid
from imgcls.runs.progress import Clock, Progress
from imgcls.runs.signals import SIGNALS, Interrupted, StopSignals
from imgcls.runs.statistics import confidence_interval, mcnemar, only_seeds_differ, t_quantile, without_seed
from imgcls.runs.tables import TooLowError, find_runs, require_top1, results_table, runs_table

__all__ = [
    "BEST",
    "COLUMNS",
    "CONFIG",
    "LAST",
    "LOCK",
    "METRICS",
    "PREVIOUS",
    "RESULTS",
    "SIGNALS",
    "Clock",
    "DiskError",
    "Events",
    "Interrupted",
    "Progress",
    "RunDirectory",
    "StopSignals",
    "TooLowError",
    "check_same_run",
    "code_version",
    "confidence_interval",
    "explain_disk_errors",
    "find_runs",
    "grid",
    "mcnemar",
    "only_seeds_differ",
    "require_top1",
    "results_table",
    "runs_table",
    "t_quantile",
    "without_seed",
]
