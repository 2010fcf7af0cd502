"""The folder for what can be made again: drawn images, lists of files."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$IMGCLS_CACHE, else imgcls below $XDG_CACHE_HOME, else ~/.cache/imgcls. It may not exist yet."""
    if named := os.environ.get("IMGCLS_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgcls"
