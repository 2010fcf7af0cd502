"""Train as train.py does, with hooks on the trainer and the images: the seam of the proofs in this folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgcls.config import Config
    from imgcls.data.sets import ImageSet
    from imgcls.training import Trainer


def run_with_hooks(
    add_hooks: Callable[["Trainer"], None], change_images: Callable[["ImageSet"], "ImageSet"] | None = None
) -> None:
    """Train the run that sys.argv asks for, in train.py's words.

    Args:
        add_hooks: called with the trainer before it starts.
        change_images: returns the image set to train on.
    """

    from imgcls.config import command_line  # here: `--help` does not wait for Hydra
    from imgcls.library import run_training

    def train(config: "Config", path: Path) -> None:
        run_training(config, path, add_hooks=add_hooks, change_images=change_images)

    command_line(train)
