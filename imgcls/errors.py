"""The errors that end a command with one line of text, their exit codes, and the hint at the nearest right name."""

import difflib
import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TextIO

EXIT_RUN_FAILED = 1  # the training failed: the loss diverged, the disk or the GPU's memory was full, ...
EXIT_USER_MISTAKE = 2  # nothing was trained
EXIT_REQUEUE = 75  # sysexits.h's EX_TEMPFAIL, "try again later": what a scheduler may requeue on
EXIT_INTERRUPTED = 130  # what a shell expects of a program that Ctrl-C stopped: 128 + SIGINT


class ConfigError(ValueError):
    """A mistake in the user's request: its text names the key, the value and the way out."""


class RunError(RuntimeError):
    """A run that failed for a reason that its text explains."""

    exit_code = EXIT_RUN_FAILED


NEAR = 0.75  # the share of two names' letters that are the same, in order; at 0.7 dropout would be near to root
NEAR_AS_LONG = 0.65  # of a short word and a name of up to one letter more or less: a wrong letter


def did_you_mean(
    word: str, known: Iterable[str], *, most: int = 1, means: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return ` (did you mean X?)` for the known names nearest to `word`, or nothing where none is near.

    Near is a name of mostly the same letters in the same order, or one that `word` begins or ends: image of image_size.

    Args:
        means: what to show for a known name instead of the name.
    """
    names = list(known)
    near = difflib.get_close_matches(word, names, n=most, cutoff=NEAR)
    if not near and len(word) > 2:
        parts = [name for name in names if name.startswith(f"{word}_") or name.endswith(f"_{word}")]
        near = sorted(parts, key=len)[:most]
    if not near and len(word) <= 6:
        as_long = [name for name in names if abs(len(name) - len(word)) <= 1]
        near = difflib.get_close_matches(word, as_long, n=most, cutoff=NEAR_AS_LONG)
    close = [means.get(name, name) for name in near]
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def exit_code_of(error: BaseException) -> int | None:
    """Return the exit code of an error that its text explains, or None for a bug, which needs its traceback."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EXIT_RUN_FAILED
    about_a_path = isinstance(error, OSError) and error.filename is not None
    is_mistake = isinstance(error, ValueError | FileNotFoundError) or about_a_path
    return getattr(error, "exit_code", EXIT_USER_MISTAKE if is_mistake else None)


def mark_reported(error: BaseException) -> None:
    """Note that another process shows the text of this error, so that several ranks do not all write it."""
    error.__dict__["reported"] = True


def is_reported(error: BaseException) -> bool:
    """Return True if another process shows the text of this error."""
    return bool(getattr(error, "reported", False))


def text_of(error: BaseException) -> str:
    """Return an error's text; that of the system's errors is the path and the reason."""
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error)


@contextmanager
def quiet_without_reader() -> Iterator[None]:
    """Within this context a command whose output loses its reader, as `head` stops reading, ends with code 0."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        send_nowhere(sys.stdout)
        raise SystemExit(0) from None


def send_nowhere(stream: TextIO) -> None:
    """Let all that is written to `stream` from now on go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
