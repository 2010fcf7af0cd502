"""imgcls as a library: train a network and use one, from Python. Imports no torch before it is needed.

`import imgcls` offers these functions as `imgcls.train` and `imgcls.load`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls.config import Config, compose_run, package_names, trust_packages
from imgcls.data.sets import ImageSet, open_image_set
from imgcls.environment import launch, quiet_other_ranks
from imgcls.runs import require_top1
from imgcls.startup import check_network_files, look_up_run

if TYPE_CHECKING:
    from imgcls.inference import Classifier
    from imgcls.training import Trainer

log = logging.getLogger("imgcls")


def train(*words: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Train a network, or resume its run, as the command `imgcls train` does with the same words.

    Its log goes to Python's logger `imgcls`; `logging.basicConfig(level="INFO", format="%(message)s")` shows it.

    Args:
        words: as on the command line: "model=resnet18", "data=folder", "data.root=/my/photos", "name=mine".
        config_dir: a folder of configs beside conf/, as --config-dir.

    Returns:
        What results.json holds, and the run's directory as `run_dir`.

    Raises:
        ValueError, FileNotFoundError: a mistake in the words or the data; nothing was trained.
        imgcls.errors.RunError: the training failed.
    """
    config, path = compose_run(words, config_dir)
    trust_packages(config.trust)
    results = run_training(config, path, words=words)
    require_top1(config.min_val_top1, results)
    return results | {"run_dir": str(path)}


def run_training(
    config: Config,
    path: Path,
    *,
    words: Sequence[str] = (),
    add_hooks: "Callable[[Trainer], None] | None" = None,
    change_images: "Callable[[ImageSet], ImageSet] | None" = None,
) -> dict[str, Any]:
    """Train the run of `config` in the directory `path`, or resume it; if it has finished, return its results.

    Args:
        words: of the command line that `config` was composed from, kept in the run's capsule.
        add_hooks: called with the trainer before it starts.
        change_images: returns the image set to train on.
    """
    quiet_other_ranks()
    alone = launch() is None
    config, results, images = look_up_run(config, path) if alone else (config, None, None)
    if results is None:
        from imgcls.distributed import process_group  # here: torch takes seconds, which no mistake should wait for
        from imgcls.training import (
            build_trainer,
            directory_of_main_rank,
            keep_capsule,
            look_up_run_on_all_ranks,
            open_run_directory,
        )

        minutes = config.ranks.timeout_minutes
        with process_group(config.device, threads=config.threads, timeout_minutes=minutes) as device:
            if not alone:
                path = directory_of_main_rank(path)
                config, results, images = look_up_run_on_all_ranks(config, path)
            if results is None:
                if change_images is not None:
                    images = change_images(images or open_image_set(config))
                with open_run_directory(config, path) as run_dir:
                    trainer = build_trainer(config, run_dir, device, images=images, words=words)
                    keep_capsule(path, words, device)
                    if add_hooks is not None:
                        add_hooks(trainer)
                    results = trainer.fit()
                    run_dir.finish(results)
                return results
    log.info(
        "this run has finished; overwrite=true trains it from scratch, continue_run=true with more epochs trains it "
        "longer, name=... or seed=... trains another"
    )
    return results


def load(
    checkpoint: str | Path, *, device: str = "auto", trust: str | Iterable[str] = (), weights_kind: str = "average"
) -> "Classifier":
    """Open the network of a checkpoint, ready to predict.

    Args:
        checkpoint: a file, such as runs/x/best.pt, or the folder of a run.
        device: auto, cpu, cuda, cuda:N, xpu, xpu:N or mps.
        trust: packages of your own whose classes the checkpoint may name; it never brings that by itself.
        weights_kind: which weights to take of a checkpoint that has both: their `average`, or the `raw` ones.

    Raises:
        ValueError, FileNotFoundError: there is none, or it cannot be read.
    """
    trust_packages(package_names(trust if isinstance(trust, str) else list(trust)))
    check_network_files([str(checkpoint)], None)
    from imgcls.device import choose_device  # here: torch takes seconds, which no mistake should wait for
    from imgcls.inference import Classifier, open_checkpoint

    return Classifier(open_checkpoint(checkpoint, kind=weights_kind), choose_device(device, 0))
