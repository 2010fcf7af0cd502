"""Checkpoints: the file format, writing in the background, which one a run resumes from, and comparing two runs."""

from imgcls.checkpoints.compare import compare_runs, list_differences, verdict_table
from imgcls.checkpoints.file import (
    CheckpointError,
    checksum,
    harmless_classes,
    has_own_values,
    load_checkpoint,
    load_latest_checkpoint,
    read_tensors,
    reason_unreadable,
    save_checkpoint,
)
from imgcls.checkpoints.resume import Checkpoints
from imgcls.checkpoints.writer import CheckpointFile, CheckpointWriter, copy_to_host

__all__ = [
    "CheckpointError",
    "CheckpointFile",
    "CheckpointWriter",
    "Checkpoints",
    "checksum",
    "compare_runs",
    "copy_to_host",
    "harmless_classes",
    "has_own_values",
    "list_differences",
    "load_checkpoint",
    "load_latest_checkpoint",
    "read_tensors",
    "reason_unreadable",
    "save_checkpoint",
    "verdict_table",
]
