"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

import shutil
import sys
import time

from imgcls.config import Job
from imgcls.environment import printable
from imgcls.errors import send_nowhere
from imgcls.runs import duration_text
from imgcls.sweeps.outcome import Outcome
from imgcls.sweeps.processes import Process

LINE_SECONDS = 30
ESTIMATE_SECONDS = 1  # between two looks at the logs, until one says how long its run takes


def say(text: str) -> None:
    """Print a line; where the reader has stopped, as `head` does, the sweep continues without it."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        send_nowhere(sys.stdout)


class Display:
    """The state of a sweep of `total` jobs, shown on a terminal below the lines that stay."""

    def __init__(self, total: int, slots: int) -> None:
        self.total, self.slots = total, slots
        self._live = sys.stdout.isatty()
        self._drawn = 0
        self._drawn_at = 0.0
        self._said: dict[int, tuple[float, int]] = {}
        self._seconds: list[float] = []
        self._counts: dict[str, int] = {}
        self._estimated_at: float | None = 0.0  # None once it is said how long the sweep takes

    def started(self, process: Process) -> None:
        self._said[process.job.number] = (time.monotonic(), 0)
        if not self._live:
            say(f"{_title(process.job, self.total)}: started")

    def ended(self, outcome: Outcome) -> None:
        """Say at once how a job has ended."""
        self._counts[outcome.state] = self._counts.get(outcome.state, 0) + 1
        if outcome.state == "finished" and not outcome.already:
            self._seconds.append(outcome.seconds)
        self.clear()
        say(describe(outcome, self.total))

    def show(self, running: list[Process]) -> None:
        """Show the jobs that run: at most twice a second on a terminal, a line for an ended epoch elsewhere."""
        now = time.monotonic()
        self._estimate(running, now)
        if self._live and now - self._drawn_at >= 0.5:
            self._drawn_at = now
            for process in running:
                process.follower.look()
            self._draw([self._summary(len(running)), *(_row(process, self.total) for process in running)])
        elif not self._live:
            for process in running:
                said_at, epochs = self._said.get(process.job.number, (0.0, 0))
                if now - said_at > LINE_SECONDS:
                    process.follower.look()
                    self._said[process.job.number] = (now, len(process.follower.values))
                    if len(process.follower.values) > epochs:
                        say(_row(process, self.total))

    def _estimate(self, running: list[Process], now: float) -> None:
        """Say once how long the sweep takes, by the first steps of one of its jobs."""
        if self._estimated_at is None or now - self._estimated_at < ESTIMATE_SECONDS:
            return
        self._estimated_at = now
        for process in running:
            if (seconds := process.estimate()) is not None:
                self._estimated_at = None
                left = self.total - sum(self._counts.values())
                self.clear()
                whole, first = duration_text(seconds * max(left / self.slots, 1)), process.job.number
                say(f"time: about {whole} for {left} jobs by the first steps of job {first}, if all are alike")
                return

    def clear(self) -> None:
        """Remove the live table."""
        if self._drawn:
            sys.stdout.write(f"\x1b[{self._drawn}F\x1b[J")
            sys.stdout.flush()
            self._drawn = 0

    def _draw(self, lines: list[str]) -> None:
        width, height = shutil.get_terminal_size()
        shown = lines[: max(1, height - 2)]
        self.clear()
        sys.stdout.write("".join(f"{printable(line)[: width - 1]}\n" for line in shown))
        sys.stdout.flush()
        self._drawn = len(shown)

    def _summary(self, running: int) -> str:
        done = sum(self._counts.values())
        parts = [f"{done} of {self.total} done", f"{running} running"]
        parts += [f"{number} {state}" for state, number in self._counts.items() if state != "finished"]
        if self._seconds:
            rounds = (self.total - done) / self.slots
            parts.append(f"about {duration_text(sum(self._seconds) / len(self._seconds) * rounds)} left")
        return "  ".join(parts)


def describe(outcome: Outcome, total: int) -> str:
    """Return a line on how a job has ended."""
    title = _title(outcome.job, total)
    if outcome.state == "failed":
        return f"{title}: failed: {outcome.error} (log: {outcome.log})"
    if outcome.already:
        return f"{title}: this run has finished before: {outcome.job.path}"
    best = (
        "" if outcome.value is None else f", best val/{outcome.job.config.checkpoint.best_metric} {outcome.value:.4g}"
    )
    return f"{title}: {outcome.state} after {duration_text(outcome.seconds)}{best}"


def _title(job: Job, total: int) -> str:
    return f"job {job.number} of {max(job.number, total)}{f' ({job.swept})' if job.swept else ''}"


def _row(process: Process, total: int) -> str:
    seen = process.follower
    left = "-" if seen.seconds_left is None else f"about {duration_text(seen.seconds_left)}"
    top1 = "-" if seen.top1 is None else f"{seen.top1:.2f} %"
    return f"{_title(process.job, total)}: epoch {len(seen.values)} of {seen.epochs or '?'}  top-1 {top1}  left {left}"
