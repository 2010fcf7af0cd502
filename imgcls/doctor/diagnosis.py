"""Look at everything that a run needs, in the order in which training would meet it."""

from collections.abc import Iterator
from pathlib import Path

from imgcls.config import Config, fit_to_set
from imgcls.data.sets import ImageSet, open_image_set
from imgcls.doctor.findings import Finding, fail, note
from imgcls.doctor.images import look_at_images
from imgcls.errors import exit_code_of, text_of
from imgcls.startup import look_up_run


def diagnose(config: Config, path: Path) -> Iterator[Finding]:
    """Yield what there is to say of the run of `config` in the directory `path`; nothing of it is changed.

    A check of the network and its speed comes last, as it imports torch.
    """
    images, config, finding = _look_up(config, path)
    if finding is not None:
        yield finding
    if images is not None:
        yield from look_at_images(config, images)
    from imgcls.doctor.machine import look_at_machine  # here: torch takes seconds
    from imgcls.doctor.training import look_at_training

    device = yield from look_at_machine(config)
    if images is not None and device is not None:
        yield from look_at_training(config, images, device, path)


def _look_up(config: Config, path: Path) -> tuple[ImageSet | None, Config, Finding | None]:
    """Return the images, the config with its open sizes chosen, and what the run's directory holds against the run."""
    try:
        config, results, images = look_up_run(config, path)
        if results is None:
            return images, config, None
        finding = note(
            "run", f"{path} holds this run, finished; overwrite=true trains it from scratch, continue_run=true longer"
        )
        return open_image_set(config), config, finding
    except (ValueError, OSError) as error:
        finding = _failure("run" if f"{path}" in str(error) else "data", error)
    try:  # what is wrong with the directory says nothing of the images
        images = open_image_set(config) if finding.topic == "run" else None
        return images, fit_to_set(config, len(images.train)) if images else config, finding
    except (ValueError, OSError):
        return None, config, finding


def _failure(topic: str, error: Exception) -> Finding:
    if exit_code_of(error) is None:
        raise error
    return fail(topic, text_of(error))
