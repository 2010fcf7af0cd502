"""TODO imgcls.checkpoints.writer."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from imgcls.checkpoints.file import save_checkpoint, sync_to_disk


class CheckpointFile(NamedTuple):
    """A checkpoint to write: as the arguments of `save`."""

    content: dict[str, Any]
    path: Path
    keep_previous: Path | None = None


class CheckpointWriter:
    """Writes checkpoints in a thread of its own while the run goes on; one lot at a time.

    What is handed over is copied to host memory first, so later steps cannot change it. An error of the thread is
    raised by the next call of `write` or `wait`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="imgcls-checkpoint")
        self._writing: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def write(self, *files: CheckpointFile, sync: Iterable[Path] = (), delete: Iterable[Path] = ()) -> None:
        """Begin to write `files`, one after the other.

        Args:
            sync: what must be on disk before them, because they speak of it.
            delete: what they replace.

        Raises:
            OSError: the lot before this one could not be written.
        """
        self.wait()
        # Copied in one go, so that a tensor which two files share takes its memory once.
        copies = copy_to_host([file.content for file in files])
        lot = [file._replace(content=copy) for file, copy in zip(files, copies, strict=True)]
        self._writing = self._thread.submit(_write_files, lot, list(sync), list(delete))

    def wait(self) -> None:
        """Return once nothing is left to write.

        Raises:
            OSError: it could not be written; what stood there before is untouched.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, and end the thread.

        Raises:
            OSError: as `wait`.
        """
        self._thread.shutdown()
        self.wait()


def _write_files(files: list[CheckpointFile], sync: list[Path], delete: list[Path]) -> None:
    for path in sync:
        sync_to_disk(path)
    for file in files:
        save_checkpoint(file.content, file.path, keep_previous=file.keep_previous)
    for path in delete:
        path.unlink(missing_ok=True)


def copy_to_host(tree: Any) -> Any:
    """Copy a tree of dicts, lists, tensors and plain values, its tensors into host memory."""
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
