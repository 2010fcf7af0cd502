"""What a training command can say before torch is imported: the run is finished, or its data is not there."""

from pathlib import Path
from typing import Any

from imgcls.config import Config, consequential
from imgcls.data.sets import ImageSet, open_image_set
from imgcls.runs import RunDirectory, check_same_run


def look_up_run(config: Config, path: Path) -> tuple[dict[str, Any] | None, ImageSet | None]:
    """Return the results of the run in `path`, or None and the images to train on if it has not finished.

    Raises:
        ValueError, FileNotFoundError: `path` holds a run of another config or data set, or there are no such images.
    """
    run_dir = RunDirectory(path, consequential(config), overwrite=config.overwrite, lock=False)
    results = run_dir.results()
    if results is None:
        return None, open_image_set(config)
    if results["data_root"] != config.data.root:
        check_same_run(path, "data set", results["data"], open_image_set(config).identity())
    return results, None
