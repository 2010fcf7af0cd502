"""What all ranks of a run must have in common, compared before the first of them changes anything."""

from pathlib import Path
from typing import Any

import torch

from imgcls import distributed
from imgcls.config import Config, flatten
from imgcls.data.sets import ImageSet
from imgcls.runs import CONTENT, code_version
from imgcls.startup import look_up_run

# What may be another on every machine. The other settings decide what a step computes, or when the ranks wait for each
# other, and one command gives them to all.
OF_THE_MACHINE = frozenset(
    {"data.root", "data.exclude", "data.num_threads", "data.prefetch", "data.cache_gb", "device", "threads", "given"}
)


def directory_of_main_rank(path: Path) -> Path:
    """Return rank 0's directory of the run: a name with the time in it differs where clocks differ or a second passes.

    Below the folder where the command was given it stays relative to it, which may be mounted elsewhere.
    """
    here = Path.cwd()
    name = path.relative_to(here) if path.is_relative_to(here) else path
    return here / distributed.from_main(name)


def look_up_run_on_all_ranks(config: Config, path: Path) -> tuple[Config, dict[str, Any] | None, ImageSet | None]:
    """Do what `look_up_run` does; all ranks return, or all raise the same error.

    Ranks that train with other settings, images or code end as well as any, with weights that no one asked for.

    Raises:
        ValueError, FileNotFoundError: the ranks have other configs, code or images, or `look_up_run` raised on one.
    """
    settings = {key: value for key, value in flatten(config).items() if key not in OF_THE_MACHINE}
    distributed.check_same(settings | {"imgcls": code_version(), "torch": torch.__version__})
    results, images, error = None, None, None
    try:
        config, results, images = look_up_run(config, path)
    except (ValueError, FileNotFoundError) as raised:
        error = raised
    distributed.check_errors(error)
    distributed.check_same({"a finished run in the run's directory": results is not None})
    identity = {} if images is None else images.identity()
    if distributed.agree(int(CONTENT not in identity)):  # a machine where verify_data did not run knows none
        identity.pop(CONTENT, None)
    distributed.check_same({f"data: {key}": value for key, value in identity.items()})
    return config, results, images
