"""What the doctor says: one line for each thing that was looked at."""

from enum import Enum
from typing import NamedTuple


class Status(Enum):
    """How a finding bears on the run."""

    OK = "ok"
    NOTE = "note"  # the run works, and its user should know this
    FAIL = "FAIL"


class Finding(NamedTuple):
    """A thing that was looked at: its topic, and what there is to say of it, with the remedy if there is one."""

    topic: str
    text: str
    status: Status = Status.OK


def note(topic: str, text: str) -> Finding:
    """Return a finding with which the run works."""
    return Finding(topic, text, Status.NOTE)


def fail(topic: str, text: str) -> Finding:
    """Return a finding with which the run would fail."""
    return Finding(topic, text, Status.FAIL)


def as_line(finding: Finding) -> str:
    """Return a row of the doctor's table."""
    return f"{finding.status.value:<5} {finding.topic:<9} {' '.join(finding.text.split())}"


def bytes_text(number: float) -> str:
    """Return `1.3 GB`, `250 MB` or `12 kB`."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"
