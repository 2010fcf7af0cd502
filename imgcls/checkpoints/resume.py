"""What a run can be taken up from: the checkpoints in its directory, when they are written, which one is read."""

import re
import time
from pathlib import Path
from typing import Any

from imgcls import distributed
from imgcls.checkpoints.file import CheckpointError, load_latest_checkpoint
from imgcls.checkpoints.writer import CheckpointFile, CheckpointWriter
from imgcls.runs import BEST, LAST, PREVIOUS


class Checkpoints:
    """The checkpoints of one run; use as a context, which waits at its end until all is written.

    last.pt is where the run stands and previous.pt the one before it; best.pt holds the weights of the best epoch;
    epoch_0012.pt is the run as it stood after epoch 12, for the newest `keep` epochs. Ranks other than the main one
    read, and write nothing.
    """

    def __init__(self, run_dir: Path, *, every_minutes: float, keep: int = 0) -> None:
        self.run_dir = run_dir
        self.every_minutes = every_minutes
        self.keep = keep
        self._writer = CheckpointWriter()
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last save is `every_minutes` ago; not while one is still being written."""
        long_ago = time.monotonic() - self._saved_at > 60 * self.every_minutes
        return distributed.is_main() and long_ago and not self._writer.busy

    def save(self, snapshot: dict[str, Any], *, best: dict[str, Any] | None = None, epoch: int | None = None) -> None:
        """Begin to write the run as it stands, after `best`, where the epoch that just ended is that.

        In this order a kill between the two leaves a best.pt that the resumed run writes again, not one that is old.

        Args:
            epoch: how many have ended, where the run stands between two of them.

        Raises:
            OSError: what was handed over before could not be written; every rank raises it.
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
        """Return once what was handed over is on disk.

        Raises:
            OSError: it could not be written; every rank raises it.
        """
        error: OSError | None = None
        try:
            self._writer.wait()
        except OSError as raised:
            error = raised
        distributed.from_main(error)

    def latest(self) -> dict[str, Any] | None:
        """Read where the run stands, or stood before, if the last file is damaged; None in a new directory."""
        return self._read([self.run_dir / LAST, self.run_dir / PREVIOUS, *(path for _, path in self._epochs())])

    def before_epoch(self, epoch: int) -> dict[str, Any] | None:
        """Read how the run stood when `epoch` epochs had ended, or the newest kept before that."""
        kept = [path for number, path in self._epochs() if number <= epoch]
        return self._read([*kept, self.run_dir / LAST, self.run_dir / PREVIOUS])

    def keeps(self, epoch: int) -> bool:
        """Whether the run is kept as it stood when `epoch` epochs had ended; the same on every rank."""
        return distributed.from_main(any(number == epoch for number, _ in self._epochs()))

    def forget_previous(self) -> None:
        """Remove previous.pt: the run has gone back, and what it belongs to will not come again."""
        if distributed.is_main():
            (self.run_dir / PREVIOUS).unlink(missing_ok=True)

    def _of_epoch(self, epoch: int) -> Path:
        return self.run_dir / f"epoch_{epoch:04}.pt"

    def _epochs(self) -> list[tuple[int, Path]]:
        found = [
            (int(match.group(1)), path)
            for path in self.run_dir.glob("epoch_*.pt")
            if (match := re.fullmatch(r"epoch_(\d+)\.pt", path.name))
        ]
        return sorted(found, reverse=True)

    def _read(self, paths: list[Path]) -> dict[str, Any] | None:
        # The main rank first: it moves damaged files away, so that the others read the very file that it read.
        found: dict[str, Any] | None = None
        refused: CheckpointError | None = None
        if distributed.is_main():
            try:
                found = load_latest_checkpoint(paths)
            except CheckpointError as error:
                refused = error
        distributed.from_main(refused)
        if not distributed.is_main():
            found = load_latest_checkpoint(paths)
        step = -1 if found is None else found["state"]["step"]
        if distributed.agree(step) != -distributed.agree(-step):
            raise CheckpointError(
                f"{self.run_dir} is not the same on all ranks: this one reads step {step}; the run's directory must "
                "lie on a disk that all nodes share"
            )
        return found

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._writer.close()
        except OSError:
            # What ends the run already is the first thing to say.
            if kind is None:
                raise
