"""The directory of a run: its files, its lock, and which run it belongs to."""

import contextlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout

from imgcls import __version__
from imgcls.config import compared, is_fixed, with_new_settings
from imgcls.errors import EXIT_USER_MISTAKE, ConfigError, exit_code_of, text_of
from imgcls.runs.capsule import CAPSULE, diff_name, git
from imgcls.runs.disk import durable_file, lock_file
from imgcls.runs.saved import check_regular, check_results, read_json

CONFIG = "config.json"
RESULTS = "results.json"
METRICS_FILE = "metrics.csv"
EVENT_FILES = "events.out.tfevents.*"  # TensorBoard's
LOGGERS = "loggers.json"  # the names by which services that log the run know it
LAST = "last.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"
LOCK = "lock"
LOG = "train.log"
JOB = "job"
BAD_FILES = "bad_files.json"
CHANGES = "changes"  # in config.json: what was changed where the run went on
# In config.json: the settings that a run took from its weights, by key, each as it was asked for and as it is.
FROM_WEIGHTS = "from_weights"
BESIDE_SETTINGS = (CHANGES, FROM_WEIGHTS)  # what config.json has besides the config
CONTENT = "checksum of the files"  # of an image set's identity: known where verify_data has read all files
FAILURE = "failure.txt"  # the error that ended the run, until it goes on


class RunDirectory:
    """The directory of one run, locked by this process until `close`.

    Nothing in it changes before `claim`, so that a command that fails before it trains deletes no earlier run.

    Args:
        path: created if it does not exist and is locked.
        config: the settings that the result depends on, as flat keys; saved as config.json and compared with it.
        overwrite: delete the run in the directory once this one begins.
        continue_run: go on with the run in the directory where its config is another one.
        look_only: write nothing and take no lock: on ranks other than 0, and before torch is imported.
        lock: False where the filesystem cannot lock files: nothing then keeps two runs out of one directory.

    Raises:
        ValueError: another process trains in the directory; it holds a run of another config, or with `continue_run`
            none, or one that cannot go on so.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        *,
        overwrite: bool = False,
        continue_run: bool = False,
        look_only: bool = False,
        lock: bool = True,
    ) -> None:
        self.path = path
        self._look_only = look_only
        # Through JSON and back, to compare with a config that was read from JSON.
        self._config = json.loads(json.dumps(config, default=str))
        for name in (CONFIG, RESULTS, METRICS_FILE, JOB, LOCK, FAILURE):
            check_regular(path / name)
        # Settings of the run that is there, to those that it goes on with.
        self.changed: dict[str, tuple[Any, Any]] = {}
        self._changes: list[dict[str, Any]] = []
        self._from_weights: dict[str, Any] = {}
        self._claimed = False
        self._lock = None if look_only else _take_lock(path, lock=lock)
        try:
            # A job that Slurm has requeued, or torchrun has restarted, has overwritten the run already.
            self.overwrite = overwrite and not begun_by_this_job(path)
            if self.holds_run:
                saved = read_json(path / CONFIG) or {}
                self._changes = saved.pop(CHANGES, [])
                self._from_weights = saved.pop(FROM_WEIGHTS, {})
                saved = with_new_settings(saved, self._config)
                self.changed = config_differences(compared(saved), compared(self._config))
                _check_changes(path, self.changed, continue_run=continue_run)
            elif continue_run:
                raise ConfigError(f"continue_run=true: {path} holds no run to go on with; {_other_runs(path)}")
        except BaseException:
            self.close()
            raise

    @property
    def holds_run(self) -> bool:
        """True if there is a run to resume or to show, which is not to be overwritten."""
        return not self.overwrite and ((self.path / RESULTS).exists() or bool(resumable(self.path)))

    def take_settings(self, config: dict[str, Any], from_weights: dict[str, Any]) -> None:
        """Let the run that begins have another config, with settings that its weights brought.

        Args:
            from_weights: those settings by key, each as it was asked for and as it is now.
        """
        self._config = json.loads(json.dumps(config, default=str))
        self._from_weights = from_weights

    def claim(self, *, step: int = 0, epoch: int = 0) -> None:
        """Make the directory this run's: delete a run that is to be overwritten, and write the config.

        From here on an error that ends the run is noted there, for tables of runs.

        Args:
            step, epoch: how far the run in the directory has trained; noted in config.json if it goes on with changes.
        """
        if self._look_only:
            return
        if self.overwrite:
            self._clear()
            self.overwrite = False
        if self.changed:
            # Before the config: a kill in between leaves the run as it was, which the same command takes on again.
            (self.path / RESULTS).unlink(missing_ok=True)
            self._changes.append({"after_step": step, "after_epoch": epoch, "changed": self.changed})
            self.changed = {}
        history = {CHANGES: self._changes} if self._changes else {}
        history |= {FROM_WEIGHTS: self._from_weights} if self._from_weights else {}
        _write(self.path / CONFIG, json.dumps(self._config | history, indent=2) + "\n")
        if jobs := [_job_line(name, job) for name, job, _ in _jobs()]:
            _write(self.path / JOB, "\n".join(jobs) + "\n")
        (self.path / FAILURE).unlink(missing_ok=True)
        self._claimed = True

    def _clear(self) -> None:
        # What a run can be resumed from goes first, and its config last: a kill in between leaves either the whole
        # run, or nothing that would resume without its metrics.
        checkpoints = (RESULTS, PREVIOUS, "epoch_*.pt", "*.partial", "*.damaged", LAST)
        files = (BEST, METRICS_FILE, EVENT_FILES, LOGGERS, JOB, FAILURE, BAD_FILES, CAPSULE, diff_name("*"), CONFIG)
        for pattern in (*checkpoints, *files):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)

    def results(self) -> dict[str, Any] | None:
        """Return the results of a finished run, or None; a run that goes on with changes has not finished."""
        return None if self.overwrite or self.changed else read_json(self.path / RESULTS, check=check_results)

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results, which marks the run as finished; the checkpoint before the last is of no use then."""
        if not self._look_only:
            _write(self.path / RESULTS, json.dumps(results, indent=2) + "\n")
            if (self.path / LAST).exists():
                (self.path / PREVIOUS).unlink(missing_ok=True)

    def _remove_log_of_no_run(self) -> None:
        """Remove the log of a command that was refused before its run began: all its lines are on the terminal."""
        if not self._look_only and not (self.path / CONFIG).exists():
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                (self.path / LOG).unlink()

    def close(self) -> None:
        """Release the lock, and remove the directory if nothing was begun in it."""
        if not self._look_only:
            if not (self.path / CONFIG).exists():
                (self.path / LOCK).unlink(missing_ok=True)
            if self._lock is not None:
                self._lock.release()
            with contextlib.suppress(OSError):  # it is not empty
                self.path.rmdir()
                self.path.parent.rmdir()  # runs/<model>-<data>, if this was the only run

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if self._claimed and isinstance(error, Exception):  # no signal, after which the run goes on
            expected = exit_code_of(error) is not None
            note_failure(self.path, text_of(error) if expected else f"{type(error).__name__}: {error}")
        elif isinstance(error, Exception) and exit_code_of(error) == EXIT_USER_MISTAKE:
            self._remove_log_of_no_run()
        self.close()


def begun_by_this_job(path: Path) -> bool:
    """Return True if the run in `path` was begun by the job that this process is a later start of."""
    try:
        begun_by = (path / JOB).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return False
    return any(restarts > 0 and _job_line(name, job) in begun_by for name, job, restarts in _jobs())


def note_failure(path: Path, error: str) -> None:
    """Note in the run's directory why it ended; a full disk, which may be the reason, cannot."""
    with contextlib.suppress(OSError):
        if (path / CONFIG).is_file():
            (path / FAILURE).write_text(" ".join(error.split()) + "\n", encoding="utf-8")


def saved_config(path: Path) -> dict[str, Any] | None:
    """Return the newest config of the run in `path`, as flat keys, or None if there is nothing to resume or to show.

    Raises:
        ValueError: the file is damaged.
    """
    begun = (path / RESULTS).exists() or resumable(path)
    saved = read_json(path / CONFIG) if begun else None
    return None if saved is None else {key: value for key, value in saved.items() if key not in BESIDE_SETTINGS}


def settings_from_weights(path: Path) -> dict[str, Any]:
    """Return the settings that the run in `path` took from its weights, by key: as asked for, and as they are.

    Raises:
        ValueError: the file is damaged.
    """
    begun = (path / RESULTS).exists() or resumable(path)
    saved = read_json(path / CONFIG) if begun else None
    return (saved or {}).get(FROM_WEIGHTS, {})


def resumable(run_dir: Path) -> list[Path]:
    """Return the checkpoints in `run_dir` that a run can be resumed from."""
    checkpoints = (run_dir / LAST, run_dir / PREVIOUS, *run_dir.glob("epoch_*.pt"))
    return [file for file in checkpoints if file.exists()]


def check_same_run(path: Path, what: str, saved: dict[str, Any], requested: dict[str, Any]) -> None:
    """Compare `what` (the config, the data set) of the run in `path` with the requested one.

    A checksum of the files counts only where both have it.

    Raises:
        ValueError: they differ; it names the first five keys that do.
    """
    if not (CONTENT in saved and CONTENT in requested):
        saved, requested = without_content(saved), without_content(requested)
    if changed := config_differences(saved, requested):
        raise ValueError(
            f"{path} holds a run of another {what} ({_listed(changed)}); give this run another name (name=...), "
            "or train from scratch in that directory (overwrite=true)"
        )


def without_content(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of an image set as it is where nothing is known of the bytes of its files."""
    return {key: value for key, value in identity.items() if key != CONTENT}


def config_differences(saved: dict[str, Any], requested: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ, each with its value there and now; `not set` where there is none."""
    return {
        key: (saved.get(key, "not set"), requested.get(key, "not set"))
        for key in sorted(saved.keys() | requested.keys())
        if saved.get(key) != requested.get(key)
    }


def _listed(changed: dict[str, tuple[Any, Any]]) -> str:
    shown = [f"{key}: {there} there, {now} now" for key, (there, now) in changed.items()]
    return "; ".join(shown[:5]) + (f"; and {len(shown) - 5} more" if len(shown) > 5 else "")


def _check_changes(path: Path, changed: dict[str, tuple[Any, Any]], *, continue_run: bool) -> None:
    """Refuse to go on with the run in `path` unless it is asked for, and what is saved can be used."""
    fixed = {key: values for key, values in changed.items() if is_fixed(key)}
    if not changed or (continue_run and not fixed):
        return
    if not continue_run:
        on = "" if fixed else "go on with it, changed so (continue_run=true), "
        raise ConfigError(
            f"{path} holds a run of another config ({_listed(changed)}); {on}give this run another name (name=...), "
            "or train from scratch in that directory (overwrite=true)"
        )
    raise ConfigError(
        f"continue_run=true: the run in {path} cannot go on with another {', '.join(fixed)} ({_listed(fixed)}); leave "
        f"that as it is, or start a run of another name from its weights (name=... weights={path / BEST})"
    )


def shorter_run(path: Path, config: dict[str, Any]) -> tuple[str, int] | None:
    """Return the longest run beside `path` that is the run of `config` but for fewer epochs: its name, its epochs."""
    shorter, wanted = [], compared(config)
    for file in path.parent.glob(f"*/{CONFIG}"):
        saved = None
        if file.parent != path:
            with contextlib.suppress(ValueError):  # another run's damaged file is no matter of this one
                saved = saved_config(file.parent)
        if saved is not None and config_differences(compared(saved), wanted).keys() == {"epochs"}:
            shorter.append((saved["epochs"], file.parent.name))
    epochs, name = max(shorter, default=(0, ""))
    return (name, epochs) if 0 < epochs < config["epochs"] else None


def _other_runs(path: Path) -> str:
    """Return which runs are beside `path`, for one that is not there."""
    there = sorted(config.parent.name for config in path.parent.glob(f"*/{CONFIG}") if config.parent != path)
    more = f" and {len(there) - 3} more" if len(there) > 3 else ""
    return (
        f"name the run (name=...): beside it are {', '.join(there[:3])}{more}" if there else "name the run (name=...)"
    )


def _take_lock(path: Path, *, lock: bool) -> BaseFileLock | None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return lock_file(path / LOCK) if lock else None
    except Timeout:
        raise ValueError(
            f"{path}: another process is training in this directory; wait for it, or give this run another name "
            "(name=...)"
        ) from None
    except PermissionError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); start the run where you may write, or give it another "
            "directory (hydra.run.dir=...)"
        ) from None
    except OSError as error:
        raise ValueError(
            f"{path} is on a filesystem that cannot lock files ({error.strerror}), so two runs in it would not "
            "notice each other; train on another disk (hydra.run.dir=...), or without a lock (lock=false) if no other "
            "run uses this directory"
        ) from None


def _jobs() -> list[tuple[str, str, int]]:
    """Return what has started this process and may start it again: kind, id, and how often it has restarted it.

    Slurm keeps a job's id when it requeues it. torchrun is known by its process, the parent of this one, which outlives
    a restart of its workers; its own id is `none` unless the user gives one.
    """
    jobs = []
    if job := os.environ.get("SLURM_JOB_ID"):
        jobs.append(("slurm", job, _count("SLURM_RESTART_COUNT")))
    if job := os.environ.get("TORCHELASTIC_RUN_ID"):
        place = f"{job} {platform.node()} {os.getppid()} {_started(os.getppid())}"
        jobs.append(("torchrun", place, _count("TORCHELASTIC_RESTART_COUNT")))
    return jobs


def _count(variable: str) -> int:
    text = os.environ.get(variable, "0")
    return int(text) if text.isdecimal() else 0


def _started(process: int) -> str:
    """Return when a process was started, in the kernel's ticks, or nothing on a system without /proc."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # its name, in brackets before, may hold anything


def _job_line(name: str, job: str) -> str:
    return f"{name} {job}"


def _write(file: Path, text: str) -> None:
    with durable_file(file) as stream:
        stream.write(text.encode())


def code_version() -> str:
    """Return imgcls' version, with the commit if this is a git checkout: `0.1.0 (1a2b3c4, changed)`."""
    commit = git("describe", "--always", "--dirty=, changed").strip()
    return f"{__version__} ({commit})" if commit else __version__
