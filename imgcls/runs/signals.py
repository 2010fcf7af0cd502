"""Signals that ask a run to stop: recorded at once, acted on between two batches."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from types import FrameType

from imgcls.errors import EXIT_INTERRUPTED, EXIT_REQUEUE

TIME_IS_UP = 1000  # stands for a signal: `max_hours` have passed
# Of those that the system has: Windows has Ctrl-Break (SIGBREAK), and none of schedulers.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK") if hasattr(signal, name))
HANGUPS = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()  # a terminal that is closed


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run, which is saved and can be resumed.

    Like Ctrl-C, it ends a whole sweep and not only one job.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"stopped by {stop_name(number)}: {text}")
        # A shell expects its own code after Ctrl-C; SIGTERM and SIGUSR1 come from schedulers.
        self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_REQUEUE


def stop_name(number: int) -> str:
    """Return what asked a run to stop: a signal's name, or the setting."""
    return "max_hours" if number == TIME_IS_UP else signal.Signals(number).name


class StopSignals:
    """In this context the first signal is recorded in `received`, and a second one ends the process at once.

    Slurm sends SIGUSR1 some time before the end (`--signal=USR1@120`) and SIGTERM at it.

    Args:
        max_hours: from now on; once they have passed, `request` is TIME_IS_UP without a signal.
        more: signals to record besides SIGNALS, if they are not ignored, as `nohup` ignores SIGHUP.
        notice: what the first Ctrl-C shows on the terminal at once: a step may take minutes.
    """

    def __init__(self, *, max_hours: float | None = None, more: Iterable[int] = (), notice: str = "") -> None:
        self.received = 0
        self.deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._notice = notice
        self._numbers = [*SIGNALS, *(number for number in more if signal.getsignal(number) != signal.SIG_IGN)]

    @property
    def request(self) -> int:
        """The number of the signal that asks the run to stop, TIME_IS_UP, or 0."""
        out_of_time = self.deadline is not None and time.monotonic() >= self.deadline
        return self.received or (TIME_IS_UP if out_of_time else 0)

    def _record(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        for each, before in self._before.items():
            signal.signal(each, before)
        if number == signal.SIGINT and self._notice:
            with contextlib.suppress(OSError, ValueError):  # no stderr, or one that is no file
                file = sys.stderr.fileno()
                if os.isatty(file):
                    os.write(file, f"\n{self._notice}\n".encode())  # the signal may have come within a print

    def __enter__(self) -> "StopSignals":
        # Only in this context: elsewhere nothing looks at `received`, and a signal must end the process.
        self._before = {number: signal.signal(number, self._record) for number in self._numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
