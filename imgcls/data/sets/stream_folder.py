"""A folder of the cache through which the shards of a set pass, within a budget, for a run's processes on a machine.

Each process writes down its position: the window of shards that it has not finished. The one that holds the lock
fetches what comes from the position of the slowest on, as much as the budget holds, and deletes the rest. So every
process finds the shards of its window, or waits for them, and the slowest waits for no other.
"""

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from imgcls.data.sets.remote import RemoteFile, Stopped, check_disk, fetch
from imgcls.environment import make_cache_folder

log = logging.getLogger(__name__)
NUM_THREADS = 4  # shards that are fetched at once
PAUSE = 0.05  # seconds between two looks at the folder
LOCK, POSITION, SHARD = "rank-{}.lock", "rank-{}.at", "{:06d}.tar"


class Position(NamedTuple):
    """How far a process is: it has finished all windows before this one."""

    epoch: int
    window: int


def streams_folder() -> Path:
    """Return the folder of the cache with a folder for each set that is streamed."""
    return make_cache_folder("streams")


class StreamFolder:
    """The shards of a set that are on this machine for one run, as one of its processes sees them.

    What earlier runs left behind is taken over, or deleted.

    Args:
        shards: of the set.
        budget: bytes that they may take at any time.
        run: the same word in all processes of the run, and in no other run.
        rank: of this process.

    Raises:
        ConfigError: the disk has less room than the budget.
    """

    def __init__(self, shards: Sequence[RemoteFile], budget: int, *, run: str, rank: int) -> None:
        self.shards, self.budget = shards, budget
        streams = streams_folder()
        self.path = streams / hashlib.sha256("\0".join(file.stamp for file in shards).encode()).hexdigest()[:32] / run
        with FileLock(streams / "lock"):
            _clear(streams, heir=self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            # Held for as long as this process lives: what no process holds is left behind.
            self._alive = FileLock(self.path / LOCK.format(rank), thread_local=False)
            self._alive.acquire(timeout=0)
            self._at = self.path / POSITION.format(rank)
            self._at.write_text("")
        most = min(budget, sum(file.size for file in shards))
        there = sum(shards[number].size for number in self.present())
        check_disk(self.path, most - there, way_out="lower data.stream_gb, or set IMGCLS_CACHE to a larger disk")

    def place(self, number: int) -> Path:
        """Return where shard `number` is once it has been fetched."""
        return self.path / SHARD.format(number)

    def present(self) -> set[int]:
        """Return the shards that are there."""
        return {int(file.stem) for file in self.path.glob("[0-9]*.tar")}

    def move_to(self, position: Position) -> None:
        """Let the other processes know how far this one is."""
        partial = self._at.with_suffix(".new")
        partial.write_text(f"{position.epoch} {position.window}")
        partial.replace(self._at)

    def slowest(self) -> Position | None:
        """Return the position of the slowest process; None while one of them has not begun."""
        texts = [file.read_text() for file in self.path.glob(POSITION.format("*"))]
        return min(Position(*map(int, text.split())) for text in texts) if all(texts) else None


class Fetching:
    """The threads that fill a folder while an epoch is read, in whichever process of the run has the lock.

    Args:
        upcoming: the shards from a position on, in the order in which they are needed, to the end of the next epoch.
    """

    def __init__(self, folder: StreamFolder, upcoming: Callable[[Position], Iterable[int]]) -> None:
        self.folder, self.upcoming = folder, upcoming
        self.error: Exception | None = None  # why no more is fetched
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imgcls-stream", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the threads; what is half fetched is given up."""
        self.stopped.set()
        self._thread.join()

    def _run(self) -> None:
        lock = FileLock(self.folder.path / "fetch.lock", thread_local=False)
        while not self.stopped.wait(PAUSE):
            try:
                lock.acquire(timeout=0)
            except Timeout:  # another process fetches
                continue
            try:
                self._fetch()
            except Stopped:
                pass
            except Exception as error:
                self.error = error
                return
            finally:
                lock.release()

    def _fetch(self) -> None:
        folder, sizes = self.folder, [file.size for file in self.folder.shards]
        here, coming = folder.present(), dict[int, Future[None]]()
        since, wanted = None, dict[int, None]()
        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="imgcls-fetch") as pool:
            try:
                while not self.stopped.wait(PAUSE):
                    for number in [number for number, future in coming.items() if future.done()]:
                        coming.pop(number).result()
                        here.add(number)
                    if (slowest := folder.slowest()) is None:
                        continue
                    if slowest != since:
                        since, wanted = slowest, dict.fromkeys(self._wanted(slowest))
                    here -= {number for number in here if number not in wanted and _delete(folder.place(number))}
                    for number in wanted:
                        if number in here or number in coming:
                            continue
                        taken = sum(sizes[each] for each in (*here, *coming))
                        if len(coming) == NUM_THREADS or taken + sizes[number] > folder.budget:
                            break
                        coming[number] = pool.submit(
                            fetch, folder.shards[number], folder.place(number), is_stopped=self.stopped.is_set
                        )
            finally:
                self.stopped.set()  # also where one of several has failed
                pool.shutdown(wait=True, cancel_futures=True)

    def _wanted(self, position: Position) -> Iterator[int]:
        """Yield the shards from a position on that fit into the budget."""
        room, seen = self.folder.budget, set[int]()
        for number in self.upcoming(position):
            if number in seen:  # in this epoch, and again in the next one
                continue
            room -= self.folder.shards[number].size
            if room < 0:
                return
            seen.add(number)
            yield number


def _clear(streams: Path, *, heir: Path) -> None:
    """Delete what runs that have ended left behind; one folder of shards of the same set becomes that of the heir."""
    for folder in streams.glob("*/*/"):
        if folder == heir or _is_in_use(folder):
            continue
        if folder.parent == heir.parent and not heir.exists():
            folder.rename(heir)
            for file in heir.iterdir():
                if file.suffix != ".tar":
                    file.unlink()
        else:
            log.info("deleting shards that an earlier run left in %s", folder)
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # others of the set are there
                folder.parent.rmdir()


def _is_in_use(folder: Path) -> bool:
    for file in folder.glob(LOCK.format("*")):
        lock = FileLock(file, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
    return False


def _delete(file: Path) -> bool:
    try:
        os.unlink(file)
    except FileNotFoundError:
        pass
    except OSError:  # Windows, where another process has it open still
        return False
    return True
