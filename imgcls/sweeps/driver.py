"""Run jobs, several at a time, until there are no more, one fails and that ends the sweep, or a signal stops all."""

import signal
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from imgcls.config import Job
from imgcls.errors import EXIT_INTERRUPTED, EXIT_REQUEUE, EXIT_RUN_FAILED
from imgcls.runs import HANGUPS, StopSignals, relative_to_here
from imgcls.sweeps.directory import SweepDirectory
from imgcls.sweeps.display import Display, describe, say
from imgcls.sweeps.outcome import Outcome, finished
from imgcls.sweeps.processes import Pool, Process

POLL_SECONDS = 0.05


class Source(Protocol):
    """Where a sweep's jobs come from."""

    total: int

    @property
    def exhausted(self) -> bool:
        """True if no job will come any more."""
        ...

    def next(self) -> Job | None:
        """Return the next job, or None if there is none now."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """Take note of how a job has ended."""
        del outcome

    def prunes(self, process: Process) -> bool:
        """Return True if a running job is to be stopped for good."""
        del process
        return False


class Grid(Source):
    """A list of jobs."""

    def __init__(self, jobs: list[Job]) -> None:
        self.total = len(jobs)
        self._jobs = list(reversed(jobs))

    @property
    def exhausted(self) -> bool:
        return not self._jobs

    def next(self) -> Job | None:
        return self._jobs.pop() if self._jobs else None


def drive(
    source: Source,
    directory: SweepDirectory,
    *,
    slots: int,
    fail_fast: bool = False,
    program: list[str] | None = None,
    done: Mapping[int, Outcome] = MappingProxyType({}),
) -> int:
    """Run the jobs of `source`; return the signal that stopped them, or 0.

    Args:
        slots: how many run at a time.
        fail_fast: the first job that fails ends the sweep.
        program: what starts a run, if not what started this process.
        done: how jobs ended that are known to have finished before, by number.
    """
    pool, display = Pool(directory.logs, slots, program), Display(source.total, slots)
    more = True

    def note(outcome: Outcome) -> None:
        nonlocal more
        directory.note(outcome)
        source.ended(outcome)
        display.ended(outcome)
        if outcome.state == "failed" and fail_fast:
            more = False
            pool.stop(signal.SIGTERM)

    with StopSignals(more=HANGUPS) as signals:
        stopped = 0
        try:
            while more or pool.running:
                if signals.received and not stopped:
                    stopped, more = signals.received, False
                    display.clear()
                    say("stopping: each run saves and ends; the same command goes on")
                    pool.stop(signal.SIGINT if stopped == signal.SIGINT else signal.SIGTERM)
                while more and pool.free and not signals.received:
                    job = source.next()
                    if job is None:
                        more = not source.exhausted
                        break
                    if (outcome := done.get(job.number) or finished(job)) is not None:
                        note(outcome)
                    else:
                        pool.start(job)
                        display.started(pool.running[-1])
                for _, outcome in pool.ended():
                    note(outcome)
                for process in pool.running:
                    if not process.pruned and source.prunes(process):
                        process.pruned = True
                        process.stop()
                display.show(pool.running)
                if pool.running:
                    time.sleep(POLL_SECONDS)
        except BaseException as error:  # no job stays behind
            pool.stop(signal.SIGINT)
            if not isinstance(error, KeyboardInterrupt):  # a second Ctrl-C ends the jobs at once
                pool.wait()
            raise
        finally:
            display.clear()
    return stopped


def conclude(directory: SweepDirectory, stopped: int) -> int:
    """Show the table of a sweep's runs and what failed; return the exit code."""
    outcomes = sorted(directory.outcomes.values(), key=lambda outcome: outcome.job.number)
    say(directory.table())
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        say(f"failed: {len(failed)} of {len(outcomes)} jobs; the same command tries them again")
        for outcome in failed:
            say(f"  {describe(outcome, len(outcomes))}")
    say(f"sweep: {relative_to_here(directory.path)}")
    if stopped:
        return EXIT_INTERRUPTED if stopped == signal.SIGINT else EXIT_REQUEUE
    return EXIT_RUN_FAILED if failed else 0
