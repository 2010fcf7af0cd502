"""The processes of a sweep: each job in its own, with its share of the cores, and a GPU where there are several."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from imgcls.config import Job
from imgcls.environment import default_num_threads, start_command
from imgcls.errors import EXIT_INTERRUPTED, EXIT_REQUEUE, EXIT_USER_MISTAKE
from imgcls.runs import note_failure, read_estimate
from imgcls.sweeps.outcome import Follower, Outcome, best_value, last_line

# Ctrl-C on the terminal reaches this process alone, which stops the jobs, once.
_SEPARATE_GROUP: dict[str, Any] = (
    {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if sys.platform == "win32" else {"process_group": 0}
)
STOPPED_CODES = (EXIT_INTERRUPTED, EXIT_REQUEUE)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        command = [program, "--query-gpu=index", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split() if listed.returncode == 0 else []


class Process:
    """A job that runs.

    Args:
        log: what it prints is added to this file.
        slot: its place among the jobs that run at a time, from 0.
        slots: how many there are.
        gpus: the GPUs that the slots share.
        program: what starts a run, if not what started this process.
    """

    def __init__(
        self,
        job: Job,
        log: Path,
        *,
        slot: int = 0,
        slots: int = 1,
        gpus: list[str] | None = None,
        program: list[str] | None = None,
    ) -> None:
        self.job, self.log, self.slot = job, log, slot
        self.follower = Follower(job)
        self.pruned = False
        self._stopped = False
        self._started = time.monotonic()
        words, environment = _share(job, slot, slots, gpus or [])
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*(program or start_command("train")), *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **_SEPARATE_GROUP,
            )

    def estimate(self) -> float | None:
        """Return the seconds that the run has estimated after its first steps in this start, or None."""
        return read_estimate(self.log, self._log_start)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Let the run save and stop."""
        self._stopped = True
        if self._process.poll() is None:
            # Windows has no signals between processes but this one.
            self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", number))

    def wait(self) -> None:
        self._process.wait()

    def outcome(self) -> Outcome | None:
        """Return how the job ended, or None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        seconds = time.monotonic() - self._started
        if code == 0:
            value = best_value(self.job)
            return Outcome(self.job, "finished", seconds=seconds, value=value, log=str(self.log))
        if self._stopped or code in STOPPED_CODES:
            state = "pruned" if self.pruned else "stopped"
            return Outcome(self.job, state, seconds=seconds, log=str(self.log))
        error = last_line(self.log, self._log_start)
        if code < 0:
            error = f"killed by {_signal_name(-code)}{f'; its last line: {error}' if error else ''}"
        if code < 0 or code > EXIT_USER_MISTAKE:  # the run itself could not note it
            note_failure(self.job.path, error)
        return Outcome(self.job, "failed", error=error, seconds=seconds, log=str(self.log))


def _share(job: Job, slot: int, slots: int, gpus: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words and the environment of a job that is one of several at a time."""
    words, environment = list(job.words), dict(os.environ)
    if gpus and job.config.device in ("auto", "cuda"):
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    if slots > 1:
        threads = max(1, default_num_threads() // slots)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        if job.config.data.num_threads is None:
            words.append(f"data.num_threads={threads}")
    return words, environment


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Pool:
    """The jobs that run at a time.

    Args:
        logs: the folder of their logs.
        slots: how many run at a time.
        program: as of `Process`.
    """

    def __init__(self, logs: Path, slots: int, program: list[str] | None = None) -> None:
        self.logs, self.slots, self._program = logs, slots, program
        self.running: list[Process] = []
        gpus = visible_gpus() if slots > 1 else []
        self._gpus = gpus if len(gpus) > 1 else []

    @property
    def free(self) -> bool:
        return len(self.running) < self.slots

    def start(self, job: Job) -> None:
        slot = min(set(range(self.slots)) - {process.slot for process in self.running})
        log = self.logs / f"{job.number}.log"
        self.running.append(Process(job, log, slot=slot, slots=self.slots, gpus=self._gpus, program=self._program))

    def ended(self) -> list[tuple[Process, Outcome]]:
        """Return the jobs that have ended since the last call."""
        pairs = [(process, process.outcome()) for process in self.running]
        done = [(process, outcome) for process, outcome in pairs if outcome is not None]
        self.running = [process for process, outcome in pairs if outcome is None]
        return done

    def stop(self, number: int) -> None:
        for process in self.running:
            process.stop(number)

    def wait(self) -> None:
        """Wait until all jobs have ended."""
        for process in self.running:
            process.wait()
