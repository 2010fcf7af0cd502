"""Runs: the directory of a run, its files, tables of runs, stop signals and progress. Imports no torch."""

from imgcls.runs.capsule import CAPSULE, add_to_capsule, describe_start, diff_name, differences, read_capsule
from imgcls.runs.comparison import FORMATS, Group, compare_rows, render, table_cells, table_notes
from imgcls.runs.directory import (
    BAD_FILES,
    BEST,
    CONFIG,
    EVENT_FILES,
    FAILURE,
    LAST,
    LOCK,
    METRICS_FILE,
    PREVIOUS,
    RESULTS,
    RunDirectory,
    check_same_run,
    code_version,
    config_differences,
    note_failure,
    saved_config,
    shorter_run,
)
from imgcls.runs.disk import durable_file, lock_file, sync_to_disk
from imgcls.runs.disk_errors import DiskError, explain_disk_errors, name_disk_errors
from imgcls.runs.effects import Effect
from imgcls.runs.events import Events, columns_of, image_grid
from imgcls.runs.loggers import OpenLoggers, build_loggers
from imgcls.runs.progress import Clock, Progress
from imgcls.runs.rows import RunRow, read_row, row_of
from imgcls.runs.run_differences import diff_runs, render_differences
from imgcls.runs.saved import check_regular, check_results, is_number, read_json, read_metrics
from imgcls.runs.signals import SIGNALS, Interrupted, StopSignals, stop_name
from imgcls.runs.statistics import bootstrap_interval, confidence_interval, mcnemar, only_seeds_differ, without_seed
from imgcls.runs.tables import (
    TooLowError,
    duration_text,
    find_runs,
    relative_to_here,
    require_top1,
    results_table,
)

__all__ = [
    "BAD_FILES",
    "BEST",
    "CAPSULE",
    "CONFIG",
    "EVENT_FILES",
    "FAILURE",
    "FORMATS",
    "LAST",
    "LOCK",
    "METRICS_FILE",
    "PREVIOUS",
    "RESULTS",
    "SIGNALS",
    "Clock",
    "DiskError",
    "Effect",
    "Events",
    "Group",
    "Interrupted",
    "OpenLoggers",
    "Progress",
    "RunDirectory",
    "RunRow",
    "StopSignals",
    "TooLowError",
    "add_to_capsule",
    "bootstrap_interval",
    "build_loggers",
    "check_regular",
    "check_results",
    "check_same_run",
    "code_version",
    "columns_of",
    "compare_rows",
    "confidence_interval",
    "config_differences",
    "describe_start",
    "diff_name",
    "diff_runs",
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
    "note_failure",
    "only_seeds_differ",
    "read_capsule",
    "read_json",
    "read_metrics",
    "read_row",
    "relative_to_here",
    "render",
    "render_differences",
    "require_top1",
    "results_table",
    "row_of",
    "saved_config",
    "shorter_run",
    "stop_name",
    "sync_to_disk",
    "table_cells",
    "table_notes",
    "without_seed",
]
