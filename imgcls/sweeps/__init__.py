"""Sweeps: many runs from one command, each in a separate process. Imports no torch."""

from imgcls.sweeps.directory import JOBS, read_jobs
from imgcls.sweeps.grid import run_sweep

__all__ = ["JOBS", "read_jobs", "run_sweep"]
