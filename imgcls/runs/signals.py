"""Signals that ask a run to stop: heard at once, obeyed between two batches."""

import signal
from types import FrameType

from imgcls.errors import EXIT_INTERRUPTED, EXIT_REQUEUE

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run, which is saved and can be taken up again.

    Like Ctrl-C, it ends a sweep and not only a job of it.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {text}")
        # Ctrl-C ends as the shell expects of it; SIGTERM and SIGUSR1 come from schedulers.
        self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_REQUEUE


class StopSignals:
    """Within this context the first signal is remembered in `received`, and the second ends the process at once.

    Slurm sends SIGUSR1 some time before the end (`--signal=USR1@120`) and SIGTERM at it.
    """

    def __init__(self) -> None:
        self.received = 0

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        for each, before in self._before.items():
            signal.signal(each, before)

    def __enter__(self) -> "StopSignals":
        # Outside this context SIGUSR1 would kill without a word, so it and SIGTERM keep their defaults there.
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
