"""The validation files looked at before the first epoch: a bad one is not to end a run after hours of training."""

import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imgcls import distributed
from imgcls.data.decoding import FORMATS, BadImageError
from imgcls.data.loading.loader import Loader
from imgcls.data.sets import FolderSplit
from imgcls.environment import cache_file, keep

log = logging.getLogger(__name__)
WHAT = "what was checked"


def check_files(loader: Loader) -> None:
    """Look at the header and the end of each file of the loader's split, each rank at its share, and note bad ones.

    What was found is kept in the cache folder for as long as no file changes.

    Raises:
        BadImageError: a file is bad, and data.on_bad_image is raise.
        ValueError: too many are.
    """
    split, error = loader.split, None
    if isinstance(split, FolderSplit):
        positions = range(loader.rank, len(split), loader.world_size)
        try:
            for position, reason in _bad_files(split, positions, loader.num_threads):
                loader.bad_images.note(position, reason)
        except (BadImageError, ValueError) as raised:
            error = raised
    if distributed.agree(int(error is not None)):
        distributed.check_errors(error)


def _bad_files(split: FolderSplit, positions: Sequence[int], num_threads: int) -> list[tuple[int, BadImageError]]:
    file = _cache_file(split, positions)
    started = time.monotonic()
    known = _read(file)
    asked = positions if known is None else known

    def look(position: int) -> BadImageError | None:
        try:
            split.check(position)
        except BadImageError as error:
            return error
        return None

    with ThreadPoolExecutor(num_threads, thread_name_prefix="imgcls-check") as pool:
        found = list(zip(asked, pool.map(look, asked), strict=True))
    bad = [(position, error) for position, error in found if error is not None]
    if known is None:
        log.info("checked %d validation files in %.1f s", len(positions), time.monotonic() - started)
        content = json.dumps([position for position, _ in bad]).encode()
        keep(file, lambda stream: stream.write(content), what=WHAT)
    return bad


def _cache_file(split: FolderSplit, positions: Sequence[int]) -> Path | None:
    return cache_file("checked", f"{split.fingerprint()} {positions} {FORMATS}".encode(), ".json", what=WHAT)


def _read(file: Path | None) -> list[int] | None:
    try:
        content = json.loads(file.read_text()) if file is not None else None
    except (OSError, ValueError):
        return None
    return content if isinstance(content, list) and all(type(position) is int for position in content) else None
