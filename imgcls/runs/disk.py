"""Files that survive a kill or a power cut, and locks that end with their process."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import BaseFileLock, FileLock

ON_WINDOWS = os.name == "nt"


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
        _move(path, keep_previous)
    _move(partial, path)
    sync_to_disk(path.parent)  # a rename is on disk only once its directory is


def _move(source: Path, target: Path, *, seconds: float = 2.0) -> None:
    """Rename a file over another one; Windows refuses while a program has either open, as virus scanners do."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            if not ON_WINDOWS or time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def sync_to_disk(path: Path) -> None:
    """Wait until a file or a folder is on disk; of a folder Windows cannot tell."""
    if ON_WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
