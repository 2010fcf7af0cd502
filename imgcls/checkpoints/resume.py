"""The checkpoints in a run's directory: when they are written, and which one a run resumes from."""

import re
import time
from pathlib import Path
from typing import Any

from imgcls import distributed
from imgcls.checkpoints.file import CheckpointError, load_checkpoint, load_latest_checkpoint
from imgcls.checkpoints.writer import CheckpointFile, CheckpointWriter
from imgcls.runs import BEST, LAST, PREVIOUS


def _step_of(saved: dict[str, Any], run_dir: Path) -> int:
    state = saved.get("state")
    step = state.get("step") if isinstance(state, dict) else None
    if type(step) is not int or not 0 <= step < 2**53:
        raise CheckpointError(
            f"{run_dir}: the checkpoint that the run resumes from has no state of a run; remove it to resume from the "
            "one before, or train from scratch (overwrite=true)"
        )
    return step


class Checkpoints:
    """The checkpoints of one run; use as a context, which ends once all of them are written.

    last.pt is the newest and previous.pt the one before it, until the run has finished; best.pt holds the weights of
    the best epoch; epoch_0012.pt is the run after epoch 12, for the newest `keep` epochs. Ranks other than 0 only read.
    """

    def __init__(
        self, run_dir: Path, *, every_minutes: float, keep: int = 0, writer: CheckpointWriter | None = None
    ) -> None:
        self.run_dir = run_dir
        self.every_minutes = every_minutes
        self.keep = keep
        self._writer = writer or CheckpointWriter()
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """True if the last save was `every_minutes` ago and none is still being written."""
        long_ago = time.monotonic() - self._saved_at > 60 * self.every_minutes
        return distributed.is_main() and long_ago and not self._writer.busy

    def save(self, snapshot: dict[str, Any], *, best: dict[str, Any] | None = None, epoch: int | None = None) -> None:
        """Begin to write the current state of the run, after `best` if the epoch that just ended is the best.

        In this order a kill between the two leaves a best.pt that the resumed run writes again, never an outdated one.

        Args:
            epoch: how many epochs have ended, if the run is between two of them.

        Raises:
            OSError: the checkpoints of the last call could not be written; every rank raises it.
        """
        self._saved_at = time.monotonic()
        self.settle()
        if not distributed.is_main():
            return
        files = [] if best is None else [CheckpointFile(best, self.run_dir / BEST)]
        outdated = []
        if epoch is not None and self.keep:
            files.append(CheckpointFile(snapshot, self._of_epoch(epoch)))
            outdated = [path for number, path in self._epochs() if number <= epoch - self.keep]
        files.append(CheckpointFile(snapshot, self.run_dir / LAST, keep_previous=self.run_dir / PREVIOUS))
        self._writer.write(*files, sync=[self.run_dir / name for name in snapshot["events"]], delete=outdated)

    def settle(self) -> None:
        """Wait until the checkpoints are on disk.

        Raises:
            OSError: they could not be written; every rank raises it.
        """
        error: OSError | None = None
        try:
            self._writer.wait()
        except OSError as raised:
            error = raised
        distributed.from_main(error)

    def latest(self) -> dict[str, Any] | None:
        """Read the newest checkpoint, or the one before it if that is damaged; None in a new directory."""
        return self._read([self.run_dir / LAST, self.run_dir / PREVIOUS, *(path for _, path in self._epochs())])

    def before_epoch(self, epoch: int) -> dict[str, Any] | None:
        """Read the checkpoint after `epoch` epochs, or the newest one before it."""
        kept = [path for number, path in self._epochs() if number <= epoch]
        return self._read([*kept, self.run_dir / LAST, self.run_dir / PREVIOUS])

    def check_best(self) -> str | None:
        """Return what is wrong with the file of the best weights, or None; a damaged one is moved away."""
        file = self.run_dir / BEST
        if not distributed.is_main():
            return None
        try:
            load_checkpoint(file)
        except FileNotFoundError:
            return f"{file} is gone"
        except CheckpointError as error:
            # Out of the way, or it would pass for the best weights.
            file.replace(file.with_name(f"{file.name}.damaged"))
            return str(error)
        return None

    def keeps(self, epoch: int) -> bool:
        """Return True if there is a checkpoint after `epoch` epochs; the same on every rank."""
        return distributed.from_main(any(number == epoch for number, _ in self._epochs()))

    def forget_previous(self) -> None:
        """Remove previous.pt after a rollback: it belongs to steps that are undone."""
        if distributed.is_main():
            (self.run_dir / PREVIOUS).unlink(missing_ok=True)

    def _of_epoch(self, epoch: int) -> Path:
        return self.run_dir / f"epoch_{epoch:04}.pt"

    def _epochs(self) -> list[tuple[int, Path]]:
        dated = [
            (int(match.group(1)), path)
            for path in self.run_dir.glob("epoch_*.pt")
            if (match := re.fullmatch(r"epoch_(\d+)\.pt", path.name))
        ]
        return sorted(dated, reverse=True)

    def _read(self, paths: list[Path]) -> dict[str, Any] | None:
        # Rank 0 first: it moves damaged files away, so that the others read the same file as it.
        saved: dict[str, Any] | None = None
        refused: CheckpointError | None = None
        if distributed.is_main():
            try:
                saved = load_latest_checkpoint(paths)
            except CheckpointError as error:
                refused = error
        distributed.from_main(refused)
        if not distributed.is_main():
            saved = load_latest_checkpoint(paths)
        step = -1 if saved is None else _step_of(saved, self.run_dir)
        if distributed.agree(step) != -distributed.agree(-step):
            raise CheckpointError(
                f"{self.run_dir} is not the same on all ranks: this one reads step {step}; the run's directory must "
                "be on a disk that all nodes share"
            )
        return saved

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._writer.close()
        except OSError:
            # The error that ends the run already is the one to report.
            if kind is None:
                raise
