"""A disk that takes no more, said so that the user knows where the run stands."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgcls.errors import EXIT_RUN_FAILED


class DiskError(OSError):
    """The disk is full, broken or read-only: its text names the file, the reason and the way out."""

    exit_code = EXIT_RUN_FAILED


@contextmanager
def explain_disk_errors(run_dir: Path) -> Iterator[None]:
    """Turn the system's error about a file of the run in `run_dir` into one that says what to do.

    Raises:
        DiskError: in its place.
    """
    hook = threading.excepthook

    def unless_of_the_disk(thread: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread keeps its error for the next call; printed as well, it would bury what is said here.
        if not _is_of_the_disk(thread.exc_value):
            hook(thread)

    threading.excepthook = unless_of_the_disk
    try:
        yield
    except OSError as error:
        if not _is_of_the_disk(error):
            raise
        raise DiskError(
            f"{error.filename or run_dir}: {error.strerror}. What is saved there is whole; "
            "make room and run the same command again, less overwrite=true: it goes on from there"
        ) from error
    finally:
        threading.excepthook = hook


def _is_of_the_disk(error: BaseException | None) -> bool:
    full_or_broken = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
    return isinstance(error, OSError) and not isinstance(error, DiskError) and error.errno in full_or_broken
