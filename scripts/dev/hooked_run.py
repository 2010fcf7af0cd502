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
    from imgcls.startup import look_up_run

    def train(config: "Config", path: Path) -> None:
        config, results, images = look_up_run(config, path)
        if results is not None:
            return
        from imgcls.distributed import process_group
        from imgcls.training import build_trainer, open_run_directory

        if images is not None and change_images is not None:
            images = change_images(images)
        with process_group(config.device) as device, open_run_directory(config, path) as run_dir:
            trainer = build_trainer(config, run_dir, device, images=images)
            add_hooks(trainer)
            run_dir.finish(trainer.fit())

    command_line(train)
