"""Runs: the directory of a run, its files, tables of runs, stop signals and progress. Imports no torch."""

from imgcls.runs.directory import (
    BAD_FILES,
    BEST,
    CONFIG,
    EVENT_FILES,
    LAST,
    LOCK,
    METRICS_FILE,
    PREVIOUS,
    RESULTS,
    RunDirectory,
    check_same_run,
    code_version,
    differences,
    saved_config,
    shorter_run,
)
from imgcls.runs.disk import durable_file, lock_file, sync_to_disk
from imgcls.runs.disk_errors import DiskError, explain_disk_errors, name_disk_errors
from imgcls.runs.events import COLUMNS, Events, image_grid
from imgcls.runs.progress import Clock, Progress
from imgcls.runs.saved import check_regular, is_number, read_json, read_metrics
from imgcls.runs.signals import SIGNALS, Interrupted, StopSignals, stop_name
from imgcls.runs.statistics import confidence_interval, mcnemar, only_seeds_differ
from imgcls.runs.tables import (
    TooLowError,
    duration_text,
    find_runs,
    require_top1,
    results_table,
    runs_table,
    seeds_table,
)

__all__ = [
    "BAD_FILES",
    "BEST",
    "COLUMNS",
    "CONFIG",
    "EVENT_FILES",
    "LAST",
    "LOCK",
    "METRICS_FILE",
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
    "check_regular",
    "check_same_run",
    "code_version",
    "confidence_interval",
    "differences",
    "durable_file",
    "duration_text",
    "explain_disk_errors",
    "find_runs",
    "image_grid",
    "is_number",
    "lock_file",
    "mcnemar",
    "name_disk_errors",
    "only_seeds_differ",
    "read_json",
    "read_metrics",
    "require_top1",
    "results_table",
    "runs_table",
    "saved_config",
    "seeds_table",
    "shorter_run",
    "stop_name",
    "sync_to_disk",
]
