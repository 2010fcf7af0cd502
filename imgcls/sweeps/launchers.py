"""Run a sweep by a launcher of Hydra's plugins: joblib's processes, Slurm's jobs through submitit.

The launcher calls a function for each job, which starts the run in a separate process, here or on another machine,
and keeps how it ended in the sweep's directory: so outcomes, tables and exit codes are those of any sweep.
"""

import json
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from imgcls.config import Job, Sweep, launch
from imgcls.environment import default_num_threads, start_command
from imgcls.runs import HANGUPS, StopSignals, durable_file, lock_file, read_json, relative_to_here
from imgcls.sweeps.directory import LOGS, SweepDirectory
from imgcls.sweeps.display import describe, say
from imgcls.sweeps.driver import conclude
from imgcls.sweeps.forecast import forecast
from imgcls.sweeps.outcome import Outcome
from imgcls.sweeps.processes import Process, visible_gpus

STOP = "stop"  # in the sweep's directory: no job starts any more, and those that run save and end
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Task:
    """The function that a launcher calls with a job's number, in a separate process.

    Args:
        jobs: the jobs that are to run, by number.
        folder: the sweep's directory.
        here: where the command was given, which the runs' directories are below.
        program: what starts a run.
        slots: how many jobs share this machine.
        fail_fast: a job that fails ends the sweep.
    """

    jobs: dict[int, Job]
    folder: Path
    here: Path
    program: list[str]
    slots: int
    fail_fast: bool

    def __call__(self, number: int) -> str:
        os.chdir(self.here)
        job, stop = self.jobs[number], self.folder / STOP
        if stop.exists():
            return "waiting"
        with StopSignals() as signals, _free_gpu(self.folder) as gpus:
            log = self.folder / LOGS / f"{number}.log"
            process = Process(job, log, slots=self.slots, gpus=gpus, program=self.program)
            stopping = False
            while (outcome := process.outcome()) is None:
                if not stopping and (signals.received or stop.exists()):
                    stopping = True
                    process.stop(signal.SIGTERM)
                time.sleep(POLL_SECONDS)
        if outcome.state == "failed" and self.fail_fast:
            stop.touch()
        kept = {name: getattr(outcome, name) for name in ("state", "error", "log", "seconds", "value")}
        with durable_file(_file(self.folder, number)) as file:
            file.write(json.dumps(kept).encode())
        return outcome.state


@contextmanager
def _free_gpu(folder: Path) -> Iterator[list[str]]:
    """Yield the GPU that no other job of the sweep on this machine has, as a list; none if there is no choice."""
    gpus = visible_gpus()
    for name in gpus if len(gpus) > 1 else []:
        try:
            lock = lock_file(folder / f"gpu-{platform.node()}-{name}.lock")
        except Timeout:
            continue
        with lock:
            yield [name]
        return
    yield gpus if len(gpus) <= 1 else [gpus[-1]]


def run_launcher(sweep: Sweep, done: Mapping[int, Outcome]) -> int:
    """Run the jobs of a sweep by the launcher that the command names, but for those `done`; return the exit code."""
    with SweepDirectory(sweep) as directory, StopSignals(more=HANGUPS) as signals:
        directory.begin(sweep.jobs)
        folder = directory.path.absolute()
        (folder / STOP).unlink(missing_ok=True)
        (folder / "outcomes").mkdir(exist_ok=True)
        waiting = {job.number: job for job in sweep.jobs}
        for job in sweep.jobs:
            _file(folder, job.number).unlink(missing_ok=True)
            if (outcome := done.get(job.number)) is not None:
                _note(directory, outcome, waiting)
        if waiting:
            say(f"sweep of {len(waiting)} jobs by {sweep.launcher}: {directory.path}")
            if _slots(sweep) > 1 and (line := forecast(waiting.values(), _slots(sweep))) is not None:
                say(line)
            task = Task(
                jobs=dict(waiting),
                folder=folder,
                here=Path.cwd(),
                program=start_command("train"),
                slots=_slots(sweep),
                fail_fast=sweep.settings.fail_fast,
            )
            with _watching(directory, waiting, signals):
                launch(task, sorted(waiting), words=sweep.launcher_words, folder=folder)
        return conclude(directory, signals.received)


def _slots(sweep: Sweep) -> int:
    """Return how many jobs share this machine: joblib's number; other launchers give each job a machine's share."""
    if sweep.launcher != "joblib":
        return 1
    asked = [word.partition("=")[2] for word in sweep.launcher_words if word.startswith("hydra.launcher.n_jobs=")]
    number = int(asked[-1]) if asked and asked[-1].lstrip("-").isdecimal() else -1
    return number if number > 0 else default_num_threads()


@contextmanager
def _watching(directory: SweepDirectory, waiting: dict[int, Job], signals: StopSignals) -> Iterator[None]:
    """Within this context outcomes are reported as they come in, and a signal stops the jobs."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(directory, waiting, signals, done), daemon=True)
    with _python_path():
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _watch(directory: SweepDirectory, waiting: dict[int, Job], signals: StopSignals, done: threading.Event) -> None:
    last = False
    while not last:
        last = done.wait(POLL_SECONDS)  # one more look after the end
        if signals.received and not (directory.path / STOP).exists():
            (directory.path / STOP).touch()
            say("stopping: each run saves and ends; the same command goes on")
        for job in list(waiting.values()):
            kept = read_json(_file(directory.path, job.number))
            if kept is not None:
                kept["log"] = relative_to_here(Path(kept["log"]))
                _note(directory, Outcome(job, **kept), waiting)


def _note(directory: SweepDirectory, outcome: Outcome, waiting: dict[int, Job]) -> None:
    del waiting[outcome.job.number]
    directory.note(outcome)
    say(describe(outcome, len(directory.outcomes)))


@contextmanager
def _python_path() -> Iterator[None]:
    """Within this context the processes of launchers find this package, wherever they start."""
    before = os.environ.get("PYTHONPATH")
    package = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = package if before is None else f"{package}{os.pathsep}{before}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _file(folder: Path, number: int) -> Path:
    return folder / "outcomes" / f"{number}.json"
