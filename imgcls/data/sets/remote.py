"""Files of a set that are at URLs: fetched whole, once, into the cache folder, and read there.

Each image of a shard is wanted at another moment of each epoch. Read over the network one by one, a million images
would be a million requests an epoch; fetched whole, a shard costs one request in all, and what is read then is what a
local set is: any order, exact counts, the same bits when a run is taken up again.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from imgcls.environment import cache_folder, make_cache_folder
from imgcls.errors import ConfigError

log = logging.getLogger(__name__)
NUM_THREADS = 8  # files that are fetched at once
NUM_TRIES = 3
CHUNK = 1 << 22


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
    places = [_place(url) for url in urls]
    if all(place.is_file() for place in places):
        return places
    folder = make_cache_folder("remote")
    log.info("fetching %d files of %s into %s", len(urls), urls[0].rpartition("/")[0], places[0].parent)
    with FileLock(folder / "lock"):
        todo = [(url, place) for url, place in zip(urls, places, strict=True) if not place.is_file()]
        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="imgcls-fetch") as pool:
            sizes = list(pool.map(_size, [url for url, _ in todo]))
            _check_disk(folder, sum(sizes))
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


def _place(url: str) -> Path:
    folder, _, name = url.rpartition("/")
    return cache_folder() / "remote" / hashlib.sha256(folder.encode()).hexdigest()[:32] / name


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # here: only sets at URLs need it

    try:
        return url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"data.root={url}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"data.root={url}: {error}; use s3://, https:// or what else fsspec reads") from None


def _size(url: str) -> int:
    filesystem, path = _filesystem(url)
    try:
        size = filesystem.info(path)["size"]
    except FileNotFoundError:
        raise FileNotFoundError(f"{url} is not there; complete the files, or name fewer") from None
    except Exception as error:
        raise ConfigError(f"{url} cannot be read: {_reason(error)}") from None
    return int(size or 0)


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{folder} has {free / 1e9:.1f} GB free, the files need {needed / 1e9:.1f}; set IMGCLS_CACHE to a folder "
            "on a larger disk"
        )


def _fetch(file: tuple[str, Path], size: int) -> int:
    url, place = file
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{os.getpid()}.{place.name}.partial")
    for tries_left in reversed(range(NUM_TRIES)):
        try:
            filesystem, path = _filesystem(url)
            with filesystem.open(path, "rb") as stream, partial.open("wb") as copy:
                shutil.copyfileobj(stream, copy, CHUNK)
                copied = copy.tell()
            if size and copied != size:
                raise OSError(f"{copied:,} of {size:,} bytes came")
            partial.replace(place)
            return copied
        except Exception as error:
            partial.unlink(missing_ok=True)
            if not tries_left:
                raise ConfigError(f"{url} cannot be fetched: {_reason(error)}") from None
            time.sleep(1)
    raise AssertionError


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
