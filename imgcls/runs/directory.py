"""The directory of a run: whose it is, what it holds, and the table of several.

Imports no torch: the table of a folder of runs comes at once.
"""

import fcntl
import json
import os
import subprocess
from pathlib import Path
from typing import IO, Any

from imgcls import __version__

CONFIG = "config.json"
RESULTS = "results.json"
METRICS = "metrics.csv"
LAST = "last.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"
LOCK = "lock"


class RunDirectory:
    """One run's directory, held by this process until `close`.

    Nothing in it changes before `claim`, so that a command which fails before it trains costs no earlier run.

    Args:
        path: made if it is not there.
        config: what the run's result depends on, as flat keys; kept in config.json and compared with what is there.
        overwrite: throw away the run that is there, once this one has begun.
        lock: false on ranks that only read here, beside the one that holds the directory.

    Raises:
        ValueError: another process trains here, or the directory holds a run of another config.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, overwrite: bool = False, lock: bool = True) -> None:
        self.path = path
        # Through JSON and back, so that what was read compares with what is asked for.
        self._config = json.loads(json.dumps(config, default=str))
        self._lock = None
        if lock:
            self._lock = _take_lock(path)
        try:
            # A job that Slurm has put back into its queue has overwritten already.
            self.overwrite = overwrite and not self._begun_by_this_job()
            if self.holds_run:
                check_same_run(path, "config", self._read(CONFIG) or {}, self._config)
        except BaseException:
            self.close()
            raise

    @property
    def holds_run(self) -> bool:
        """Whether there is a run to take up again, or to show; not one that is to be thrown away."""
        saved = (self.path / RESULTS, *self.checkpoints, *self.path.glob("epoch_*.pt"))
        return not self.overwrite and any(file.exists() for file in saved)

    def claim(self) -> None:
        """Make the directory this run's: throw away what is to be overwritten, and write down the config."""
        if self._lock is None:
            return
        if self.overwrite:
            self._clear()
            self.overwrite = False
        _write_whole(self.path / CONFIG, self._config)
        self._lock.truncate(0)
        self._lock.write(_job())
        self._lock.flush()

    def _begun_by_this_job(self) -> bool:
        file = self.path / LOCK
        requeued = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
        return requeued and file.exists() and file.read_text() == _job()

    def _clear(self) -> None:
        # What a run could be taken up from goes first, and what it is known by last: a kill in between leaves either
        # the whole of it, or nothing that would go on without its metrics.
        checkpoints = (RESULTS, PREVIOUS, "epoch_*.pt", "*.partial", "*.damaged", LAST)
        for pattern in (*checkpoints, BEST, METRICS, "events.out.tfevents.*", CONFIG):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)

    @property
    def checkpoints(self) -> list[Path]:
        """Where a run to take up again may be saved, newest first."""
        return [self.path / LAST, self.path / PREVIOUS]

    def results(self) -> dict[str, Any] | None:
        """Return the results of a run that has finished, or None."""
        return None if self.overwrite else self._read(RESULTS)

    def _read(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged ({error}); put it back, or train anew in that directory (overwrite=true)"
            ) from None

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results, which marks the run as finished."""
        if self._lock is None:
            return
        _write_whole(self.path / RESULTS, results)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_same_run(path: Path, what: str, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Hold what is known of the run in `path` against the one that is asked for.

    Raises:
        ValueError: they differ, with the first five keys that do.
    """
    differences = [
        f"{key}: {there.get(key, 'not set')} there, {now.get(key, 'not set')} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key)
    ]
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ValueError(
            f"{path} holds a run of another {what} ({shown}); give this run a name of its own (name=...), "
            "or train anew in that directory (overwrite=true)"
        )


def _take_lock(path: Path) -> IO[str]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("a+")
    except PermissionError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); start the run where you may write, or give it another place "
            "(hydra.run.dir=...)"
        ) from None
    try:
        # The lock is the kernel's, so it goes with its process, however that ends.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except BlockingIOError:
        lock.close()
        raise ValueError(
            f"{path}: another process is training in this directory; "
            "wait for it, or give this run a name of its own (name=...)"
        ) from None
    except OSError as error:
        lock.close()
        raise ValueError(
            f"{path} lies on a filesystem that cannot lock files ({error.strerror}), so two runs in it would not "
            "notice each other; train on another disk (hydra.run.dir=...)"
        ) from None


def _job() -> str:
    """Return what tells a Slurm job from others, the same after it was put back into the queue; or nothing."""
    return os.environ.get("SLURM_JOB_ID", "")


def _write_whole(file: Path, content: dict[str, Any]) -> None:
    # Synced and renamed into place, so that neither a kill nor a power cut leaves half of it.
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w") as stream:
        stream.write(json.dumps(content, indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def code_version() -> str:
    """Return imgcls' version, with the commit where this is a git checkout: `0.1.0 (1a2b3c4, changed)`."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=, changed"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    commit = described.stdout.strip()
    return f"{__version__} ({commit})" if described.returncode == 0 and commit else __version__
