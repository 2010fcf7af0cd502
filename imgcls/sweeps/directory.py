"""The directory of a sweep: its command, its list of jobs with their outcomes, multirun.yaml, the table, the logs."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import BaseFileLock, Timeout

from imgcls.config import Job, Sweep, consequential
from imgcls.environment import command
from imgcls.errors import ConfigError
from imgcls.runs import RunRow, check_regular, compare_rows, durable_file, lock_file, render, row_of
from imgcls.sweeps.outcome import Outcome

SWEEPS = Path("sweeps")
COMMAND = "command.txt"
JOBS = "jobs.csv"
MULTIRUN = "multirun.yaml"
TABLE = "table.txt"
LOGS = "logs"
COLUMNS = ("job", "words", "run", "state", "value", "seconds", "error", "log")


class SweepDirectory:
    """The directory of one sweep, locked by this process until the context ends.

    The runs themselves are not in it: a run has one directory, whatever sweeps it is a job of.

    Raises:
        ConfigError: it holds another sweep, or another process runs this one.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.path = SWEEPS / sweep.name
        self.outcomes: dict[int, Outcome] = {}
        for name in (COMMAND, JOBS, MULTIRUN, TABLE, "lock"):
            check_regular(self.path / name)
        self._check_same(sweep.jobs)
        self._lock = self._take_lock(lock=not sweep.jobs or sweep.jobs[0].config.lock)
        self._write(COMMAND, f"{command('train')} {sweep.command}\n")
        self._write(MULTIRUN, sweep.multirun)

    @property
    def logs(self) -> Path:
        return self.path / LOGS

    def _take_lock(self, *, lock: bool) -> BaseFileLock | None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return lock_file(self.path / "lock") if lock else None
        except Timeout:
            raise ConfigError(f"{self.path}: another process runs this sweep; wait for it, or stop it") from None
        except OSError as error:
            raise ConfigError(
                f"{self.path}: the sweep's directory cannot be made or locked: {error.strerror}; start the sweep where "
                "you may write, or without locks (lock=false)"
            ) from None

    def _check_same(self, jobs: Sequence[Job]) -> None:
        before = {row["run"] for row in read_jobs(self.path)}
        if jobs and not before <= {str(job.path) for job in jobs}:
            (other, *_) = sorted(before - {str(job.path) for job in jobs})
            raise ConfigError(
                f"sweep.name={self.path.name}: {self.path} holds another sweep, with the run {other}, which this "
                "command has not; give this one another sweep.name, or remove that folder (its runs stay)"
            )

    def note(self, outcome: Outcome) -> None:
        """Keep a job's outcome, and write the list of jobs and the table."""
        self.outcomes[outcome.job.number] = outcome
        self.write()

    def begin(self, jobs: Iterable[Job]) -> None:
        """Write the list of jobs before the first one starts."""
        self.outcomes |= {job.number: Outcome(job, "waiting") for job in jobs}
        self.write()

    def write(self) -> None:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for number, each in sorted(self.outcomes.items()):
            value = "" if each.value is None else each.value
            ended = [each.state, value, round(each.seconds, 1), each.error, each.log]
            rows.writerow([number, each.job.swept, each.job.path, *ended])
        self._write(JOBS, text.getvalue())

    def table(self) -> str:
        """Return the table of the sweep's runs, best first, and write it."""
        shown = {each.job.path: each for each in self.outcomes.values() if each.state != "waiting"}
        text = render(compare_rows(map(_row, shown.values())))
        self._write(TABLE, text + "\n")
        return text

    def _write(self, name: str, text: str) -> None:
        with durable_file(self.path / name) as file:
            file.write(text.encode())

    def __enter__(self) -> "SweepDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            self._lock.release()


def _row(outcome: Outcome) -> RunRow:
    """Return the row of a job's run; one that failed before its directory was made has the job's config and error."""
    row = row_of(outcome.job.path)
    if outcome.state in ("failed", "pruned") and row.state != "finished":
        row = dataclasses.replace(row, state=outcome.state, reason=outcome.error)
    return row if row.config else dataclasses.replace(row, config=consequential(outcome.job.config))


def read_jobs(path: Path) -> list[dict[str, str]]:
    """Return the rows of a sweep's list of jobs; none if there is none.

    Raises:
        ConfigError: it is damaged.
    """
    file = path / JOBS
    if not file.exists():
        return []
    with file.open(newline="", errors="replace") as lines:
        reader = csv.DictReader(lines)
        if not {"job", "run", "state"} <= set(reader.fieldnames or ()):
            raise ConfigError(f"{file} is no list of jobs; remove that folder (its runs stay), or name another sweep")
        return [row for row in reader if row["run"]]
