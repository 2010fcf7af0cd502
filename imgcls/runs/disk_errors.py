"""Disk errors that name the file, and the checkpoint that the run resumes from."""

import errno
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
    hook = threading.excepthook

    def other_than_disk_errors(thread: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread keeps its error for the next call; printed here too, it would hide our message.
        if not _is_disk_error(thread.exc_value):
            hook(thread)

    threading.excepthook = other_than_disk_errors
    try:
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
    finally:
        threading.excepthook = hook


def _is_disk_error(error: BaseException | None) -> bool:
    full_or_broken = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
    return isinstance(error, OSError) and not isinstance(error, DiskError) and error.errno in full_or_broken
