"""How long a run takes, said in its log after its first steps, and read there by a sweep that waits for it."""

import re
from pathlib import Path

from imgcls.runs.tables import duration_text

# Before an estimate; the first step of all is not among them, it is slow, as the device and the readers wake up.
LEAST_STEPS = 10
LEAST_SECONDS = 2.0
HEAD = 65536  # bytes of a log that are read from its end
_LINE = re.compile(r"time     the run takes about (?:(\d+):)?(\d+):(\d\d)\b")


def estimate_text(seconds: float, *, steps: int, seconds_a_step: float, resumed: bool, max_hours: float | None) -> str:
    """Return the line of the log.

    Args:
        seconds: that are left, validation included.
        steps: that the estimate is of.
    """
    more = " more" if resumed else ""
    over = max_hours is not None and seconds > max_hours * 3600
    stops = f"; max_hours={max_hours:g} saves and stops it before, and the same command goes on" if over else ""
    return (
        f"time     the run takes about {duration_text(seconds)}{more}, by its first {steps} steps of "
        f"{seconds_a_step:.3g} s{stops}"
    )


def read_estimate(log: Path, start: int = 0) -> float | None:
    """Return the seconds that a run has estimated in what it wrote to its log after `start`, or None."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - HEAD))
            found = _LINE.search(file.read().decode(errors="replace"))
    except OSError:
        return None
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 3600.0 * hours + 60 * minutes + seconds
