"""Files of a set that are at URLs: fetched whole into the cache folder, and read there.

Each image of a shard is wanted at another moment of each epoch. Read over the network one by one, a million images
would be a million requests an epoch; fetched whole, a shard costs one request in all, and what is read then is what a
local set is: any order, exact counts, the same bits when a run is taken up again.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from imgcls.environment import cache_folder, make_cache_folder
from imgcls.errors import ConfigError

log = logging.getLogger(__name__)
NUM_THREADS = 8  # files that are fetched at once
NUM_TRIES = 3
SILENCE = 60.0  # seconds without an answer that end a try
CHUNK = 1 << 22
# What filesystems call the version of a file; the first that there is counts.
VERSIONS = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "mtime")
LARGER_DISK = (
    "set IMGCLS_CACHE to a folder on a larger disk, or let training shards (.tar) pass through a small one: "
    "data.stream_gb=100"
)


def list_files(url: str) -> list[str]:
    """Return the URLs of all files below a folder.

    Raises:
        ConfigError: there is no such kind of URL, or what reads it is not installed.
        FileNotFoundError: there is no such folder, or it cannot be listed.
    """
    filesystem, path = _filesystem(url)
    try:
        return sorted(filesystem.unstrip_protocol(file) for file in filesystem.find(path))
    except Exception as error:  # each filesystem has its own
        raise FileNotFoundError(f"data.root={url}: cannot be listed ({_reason(error)}); name its files") from None


def fetch_all(urls: Sequence[str]) -> list[Path]:
    """Return files at URLs as files of the cache folder, fetching those that are not there yet.

    Several processes of a machine fetch a file once. A fetch that was broken off goes on with the next file.

    Raises:
        ConfigError: there is no such kind of URL, what reads it is not installed, a file cannot be fetched, or the
            disk is too small.
        FileNotFoundError: a file is not there.
    """
    places = [place_of(url) for url in urls]
    if all(place.is_file() for place in places):
        return places
    folder = make_cache_folder("remote")
    log.info("fetching %d files of %s into %s", len(urls), urls[0].rpartition("/")[0], places[0].parent)
    with FileLock(folder / "lock"):
        todo = [(url, place) for url, place in zip(urls, places, strict=True) if not place.is_file()]
        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="imgcls-fetch") as pool:
            sizes = list(pool.map(_size, [url for url, _ in todo]))
            check_disk(folder, sum(sizes), way_out=LARGER_DISK)
            started = shown = time.monotonic()
            try:
                done = 0
                for size in pool.map(_fetch, todo, sizes):
                    done += size
                    if time.monotonic() - shown > 10:
                        log.info("fetched %.1f of %.1f GB", done / 1e9, sum(sizes) / 1e9)
                        shown = time.monotonic()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        if todo:
            log.info("fetched %d files, %.1f GB, in %.0f s", len(todo), done / 1e9, time.monotonic() - started)
    return places


class RemoteFile(NamedTuple):
    """A file at a URL: its size in bytes, and a text that changes when the file does."""

    url: str
    size: int
    stamp: str


def look_up(urls: Sequence[str]) -> list[RemoteFile]:
    """Return the sizes of files at URLs, by one request each.

    Raises:
        ConfigError: a file cannot be read, or its server does not say its size.
        FileNotFoundError: a file is not there.
    """
    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="imgcls-fetch") as pool:
        try:
            return list(pool.map(_look_up, urls))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _look_up(url: str) -> RemoteFile:
    facts = _info(url)
    size = int(facts.get("size") or 0)
    if not size:
        raise ConfigError(f"{url} is empty, or its server does not say its size; data.stream_gb needs to know it")
    version = next((str(facts[key]) for key in VERSIONS if facts.get(key)), "")
    return RemoteFile(url, size, f"{url} {size} {version}")


def fetch(file: RemoteFile, place: Path, *, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Fetch a file at a URL; it appears at `place` whole or not at all.

    Raises:
        ConfigError: it cannot be fetched, or has changed since `look_up`.
        Stopped: `is_stopped`.
    """
    _fetch((file.url, place), file.size, is_stopped)


def read_range(url: str, start: int, size: int) -> bytes:
    """Return some bytes of a file at a URL, by a request for them alone.

    Raises:
        OSError: they cannot be read, as by a server that gives out whole files alone.
    """
    try:
        filesystem, path = _filesystem(url)
        with filesystem.open(path, "rb", cache_type="none") as file:
            file.seek(start)
            return file.read(size)
    except Exception as error:  # each filesystem has its own
        raise OSError(f"{url} cannot be read in parts: {_reason(error)}") from None


def place_of(url: str) -> Path:
    """Return where a file at a URL is in the cache folder once it has been fetched."""
    folder, _, name = url.rpartition("/")
    return cache_folder() / "remote" / hashlib.sha256(folder.encode()).hexdigest()[:32] / name


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # here: only sets at URLs need it

    try:
        return url_to_fs(url, **_http_settings(url))
    except ImportError as error:
        raise ConfigError(f"data.root={url}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"data.root={url}: {error}; use s3://, https:// or what else fsspec reads") from None


def _http_settings(url: str) -> dict[str, Any]:
    """Return settings with which a server may take its time for a large file, but not fall silent."""
    if not url.startswith(("http://", "https://")):
        return {}
    try:
        import aiohttp  # fsspec reads http by it, and gives each request five minutes
    except ImportError:  # as fsspec will say
        return {}
    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)}}


def _size(url: str) -> int:
    return int(_info(url).get("size") or 0)


def _info(url: str) -> Mapping[str, Any]:
    filesystem, path = _filesystem(url)
    try:
        return filesystem.info(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{url} is not there; complete the files, or name fewer") from None
    except Exception as error:
        raise ConfigError(f"{url} cannot be read: {_reason(error)}") from None


def check_disk(folder: Path, needed: int, *, way_out: str) -> None:
    """Refuse a disk without room for `needed` bytes.

    Raises:
        ConfigError: with the `way_out`.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(f"{folder} has {free / 1e9:.1f} GB free, the files need {needed / 1e9:.1f}; {way_out}")


class Stopped(Exception):
    """What was to be fetched is no longer wanted."""


def _fetch(file: tuple[str, Path], size: int, is_stopped: Callable[[], bool] = lambda: False) -> int:
    url, place = file
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{os.getpid()}.{place.name}.partial")
    for tries_left in reversed(range(NUM_TRIES)):
        try:
            filesystem, path = _filesystem(url)
            with _open_whole(filesystem, path) as stream, partial.open("wb") as copy:
                while part := stream.read(CHUNK):
                    copy.write(part)
                    if is_stopped():
                        raise Stopped
                copied = copy.tell()
            if size and copied != size:
                raise OSError(f"{copied:,} of {size:,} bytes came")
            partial.replace(place)
            return copied
        except Stopped:
            partial.unlink(missing_ok=True)
            raise
        except Exception as error:
            partial.unlink(missing_ok=True)
            if not tries_left:
                raise ConfigError(f"{url} cannot be fetched: {_reason(error)}") from None
            time.sleep(1)
    raise AssertionError


def _open_whole(filesystem: Any, path: str) -> Any:
    """Open a file to be read from its first to its last byte."""
    is_http = path.startswith(("http://", "https://"))
    if is_http and not filesystem.info(path).get("partial"):  # this server does not say that it gives out parts
        return filesystem.open(path, "rb", block_size=0)
    return filesystem.open(path, "rb")


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
