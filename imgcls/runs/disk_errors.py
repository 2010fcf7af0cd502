"""Disk errors that name the file, and the checkpoint that the run resumes from."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgcls.errors import EXIT_RUN_FAILED
from imgcls.runs.directory import resumable


class DiskError(OSError):
    """The disk is full, broken or read-only: the text names the file, the reason and the way out."""

    exit_code = EXIT_RUN_FAILED


@contextmanager
def explain_disk_errors(run_dir: Path) -> Iterator[None]:
    """Turn a disk error about a file of the run in `run_dir` into one that says what to do.

    Raises:
        DiskError: instead of it.
    """
    try:
        with _quiet_threads():
            yield
    except OSError as error:
        if not _is_disk_error(error):
            raise
        saved = max(resumable(run_dir), key=lambda file: file.stat().st_mtime, default=None)
        intact = "nothing was saved to resume from" if saved is None else f"{saved} is intact"
        again = "starts from the beginning" if saved is None else "resumes from there"
        raise DiskError(
            f"{error.filename or run_dir}: {error.strerror}; {intact}: make room and run the same command again, "
            f"without overwrite=true; it {again}"
        ) from error


@contextmanager
def name_disk_errors(file: Path) -> Iterator[None]:
    """Turn a disk error about `file`, or a file in it, into one that names it; the work may be done again elsewhere.

    Raises:
        DiskError: instead of it.
    """
    try:
        with _quiet_threads():
            yield
    except Exception as error:
        # Libraries wrap the disk's error in their own, or only repeat its text.
        cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        full = os.strerror(errno.ENOSPC)
        if not _is_disk_error(cause) and full not in str(error):
            raise
        reason = cause.strerror if isinstance(cause, OSError) else full
        raise DiskError(f"{file}: {reason}; make room there, or name another place") from error


@contextmanager
def _quiet_threads() -> Iterator[None]:
    hook = threading.excepthook

    def other_than_disk_errors(thread: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread keeps its error for the next call; printed here too, it would hide our message.
        if not _is_disk_error(thread.exc_value):
            hook(thread)

    threading.excepthook = other_than_disk_errors
    try:
        yield
    finally:
        threading.excepthook = hook


def _is_disk_error(error: BaseException | None) -> bool:
    full_or_broken = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
    return isinstance(error, OSError) and not isinstance(error, DiskError) and error.errno in full_or_broken
