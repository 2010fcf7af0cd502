"""Run a sweep: every job of its list, or those that a search chooses."""

from imgcls.config import Sweep
from imgcls.environment import launch
from imgcls.errors import ConfigError
from imgcls.sweeps.directory import SweepDirectory
from imgcls.sweeps.display import say
from imgcls.sweeps.driver import Grid, conclude, drive
from imgcls.sweeps.forecast import forecast
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
    # Before the first job starts: it also says whether a directory holds another run.
    done = {job.number: outcome for job in sweep.jobs if (outcome := finished(job)) is not None}
    if sweep.search is not None:
        from imgcls.sweeps.search import run_search  # here: it imports optuna

        return run_search(sweep)
    if sweep.launcher != "basic":
        from imgcls.sweeps.launchers import run_launcher

        return run_launcher(sweep, done)
    with SweepDirectory(sweep) as directory:
        directory.begin(sweep.jobs)
        slots = min(sweep.settings.jobs, len(sweep.jobs))
        say(f"sweep of {len(sweep.jobs)} jobs, {slots} at a time: {directory.path}")
        if (line := forecast((job for job in sweep.jobs if job.number not in done), slots)) is not None:
            say(line)
        stopped = drive(Grid(sweep.jobs), directory, slots=slots, fail_fast=sweep.settings.fail_fast, done=done)
        return conclude(directory, stopped)
