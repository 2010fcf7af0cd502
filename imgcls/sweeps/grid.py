"""Run a sweep: every job of its list, or those that a search chooses."""

from imgcls.config import Sweep
from imgcls.environment import launch
from imgcls.errors import ConfigError
from imgcls.sweeps.directory import SweepDirectory
from imgcls.sweeps.display import say
from imgcls.sweeps.driver import Grid, conclude, drive
from imgcls.sweeps.outcome import finished


def run_sweep(sweep: Sweep) -> int:
    """Run a sweep, or go on with it; return the exit code: 1 if a job failed, 130 or 75 if a signal stopped it.

    Raises:
        ValueError: a mistake in the command, found before the first job starts.
    """
    if launch() is not None:
        raise ConfigError(
            "-m: a sweep is started once, not by every rank; in a loop, start torchrun for each of its runs"
        )
    for job in sweep.jobs:
        finished(job)  # says whether its directory holds another run
    if sweep.search is not None:
        from imgcls.sweeps.search import run_search  # here: it imports optuna

        return run_search(sweep)
    if sweep.launcher != "basic":
        from imgcls.sweeps.launchers import run_launcher

        return run_launcher(sweep)
    with SweepDirectory(sweep) as directory:
        directory.begin(sweep.jobs)
        say(f"sweep of {len(sweep.jobs)} jobs, {min(sweep.settings.jobs, len(sweep.jobs))} at a time: {directory.path}")
        slots = min(sweep.settings.jobs, len(sweep.jobs))
        stopped = drive(Grid(sweep.jobs), directory, slots=slots, fail_fast=sweep.settings.fail_fast)
        return conclude(directory, stopped)
