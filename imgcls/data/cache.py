"""The folder for what can be made again: drawn images, lists of files."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$IMGCLS_CACHE, else imgcls below $XDG_CACHE_HOME, else ~/.cache/imgcls. It may not exist yet.

    Raises:
        FileNotFoundError: neither is set, and this user has no home folder.
    """
    if named := os.environ.get("IMGCLS_CACHE"):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "imgcls"
    try:
        return Path.home() / ".cache" / "imgcls"
    except RuntimeError:
        raise FileNotFoundError("this user has no home folder; set IMGCLS_CACHE to a folder for the cache") from None
