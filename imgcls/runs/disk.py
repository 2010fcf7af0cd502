"""Files that survive a kill or a power cut, and disk errors that name the file and what is saved."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import BaseFileLock, FileLock

from imgcls.errors import EXIT_RUN_FAILED


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
        saved = sorted(run_dir.glob("*.pt"), key=lambda file: file.stat().st_mtime)
        intact = f"{saved[-1]} is intact: " if saved else "nothing was saved before: "
        again = "it resumes from there" if saved else "it starts from the beginning"
        raise DiskError(
            f"{error.filename or run_dir}: {error.strerror}; {intact}make room and run the same command again, "
            f"without overwrite=true; {again}"
        ) from error
    finally:
        threading.excepthook = hook


def _is_disk_error(error: BaseException | None) -> bool:
    full_or_broken = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
    return isinstance(error, OSError) and not isinstance(error, DiskError) and error.errno in full_or_broken


def lock_file(path: Path) -> BaseFileLock:
    """Lock the file `path`, made if there is none, until the lock is released or this process ends.

    Raises:
        filelock.Timeout: another process has locked it.
        OSError: the file cannot be made, or its filesystem cannot lock files.
    """
    # The kernel's lock ends with its process; the soft lock, a file that exists while it is locked, outlives a kill.
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except NotImplementedError:  # what filelock raised until 2025
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(path)) from None
    return lock


@contextmanager
def durable_file(path: Path, *, keep_previous: Path | None = None) -> Iterator[IO[bytes]]:
    """Yield a file that replaces `path` once it is written: a crash leaves either the old file or the new one intact.

    Args:
        path: the file is written beside it, synced, and renamed.
        keep_previous: where the old file at `path` is moved, instead of being replaced.

    Raises:
        OSError: the disk is full or refuses; the old file is untouched.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if keep_previous is not None and path.exists():
        path.replace(keep_previous)
    partial.replace(path)
    sync_to_disk(path.parent)  # a rename is on disk only once its directory is


def sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
