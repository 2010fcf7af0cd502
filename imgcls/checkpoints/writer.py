"""Write checkpoints in a background thread."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from imgcls.checkpoints.file import save_checkpoint
from imgcls.runs import sync_to_disk


class CheckpointFile(NamedTuple):
    """A checkpoint to write: the arguments of `save_checkpoint`."""

    content: dict[str, Any]
    path: Path
    keep_previous: Path | None = None


class CheckpointWriter:
    """Write checkpoints in a background thread while the run continues; one call of `write` at a time.

    The content is copied to host memory first, so that later steps cannot change it. An error of the thread is
    raised by the next call of `write` or `wait`.

    Args:
        save: writes one file; a test may give one that is slow, or fails.
    """

    def __init__(self, save: Callable[..., None] = save_checkpoint) -> None:
        self._save = save
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="imgcls-checkpoint")
        self._writing: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def write(self, *files: CheckpointFile, sync: Iterable[Path] = (), delete: Iterable[Path] = ()) -> None:
        """Begin to write `files`, one after the other, after what the last call gave is written.

        Args:
            sync: files that must be on disk before them, because they refer to these.
            delete: files that they replace.

        Raises:
            OSError: what the call before this one gave could not be written.
        """
        self.wait()
        # Copied together, so that a tensor which two files share takes its memory once.
        copies = copy_to_host([file.content for file in files])
        copied = [file._replace(content=copy) for file, copy in zip(files, copies, strict=True)]
        self._writing = self._thread.submit(self._write_files, copied, list(sync), list(delete))

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: it could not be written; the file there before is untouched.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait until everything is written, and end the thread.

        Raises:
            OSError: as `wait`.
        """
        self._thread.shutdown()
        self.wait()

    def _write_files(self, files: list[CheckpointFile], sync: list[Path], delete: list[Path]) -> None:
        for path in sync:
            sync_to_disk(path)
        for file in files:
            self._save(file.content, file.path, keep_previous=file.keep_previous)
        for path in delete:
            path.unlink(missing_ok=True)


def copy_to_host(tree: Any) -> Any:
    """Return a copy of a tree of dicts, lists, tensors and plain values, with its tensors in host memory."""
    copies: dict[int, Tensor] = {}

    def copied(node: Any) -> Any:
        if isinstance(node, Tensor):
            if id(node) not in copies:
                copies[id(node)] = node.detach().to("cpu", copy=True)
            return copies[id(node)]
        if isinstance(node, dict):
            return {key: copied(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(map(copied, node))
        return node

    return copied(tree)
