"""Running out of the device's memory: the largest microbatch that fits, and what the error says."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import torch

from imgcls import distributed
from imgcls.checkpoints import copy_to_host
from imgcls.device import device_name, is_out_of_memory, return_freed_memory, total_memory
from imgcls.errors import ConfigError, RunError
from imgcls.training.compiled_step import step_uncompiled
from imgcls.training.saving import saved_after
from imgcls.training.state import load, snapshot

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer

log = logging.getLogger(__name__)


class OutOfMemory(RunError):
    """A batch does not fit on the device: the text names the sizes and what would fit."""


def set_microbatch(trainer: "Trainer") -> None:
    """Set how many images the network takes at a time: all, config.microbatch, or for auto the most that fit.

    Raises:
        OutOfMemory: not even one image fits.
    """
    wanted = trainer.config.microbatch
    trainer.state.microbatch = _asked_for(trainer)
    if wanted == "auto":
        size = largest_microbatch(trainer)
        if size is None:
            raise OutOfMemory(_advice(trainer, fits=None))
        trainer.state.microbatch = size
        log.info("microbatch=auto: %d images at a time fit on %s", size, trainer.device)


def check_host_memory(trainer: "Trainer") -> None:
    """Refuse a step that the host's memory cannot hold, and warn of one that it may not hold.

    Raises:
        ConfigError: on all ranks, if one of them has too little.
    """
    host, config = trainer.host, trainer.config
    if trainer.device.type != "cpu":
        return
    if host is None:
        distributed.check_errors(None)  # of the other ranks
        return
    wanted = config.microbatch
    size = 1 if wanted == "auto" else _asked_for(trainer)
    least, fits = host.least(size), host.images_that_fit()
    key = f"batch_size={trainer.train_loader.batch_size}" if wanted is None else f"microbatch={wanted}"
    text = (
        f"{key}: with {size} image{'s' * (size > 1)} of {config.input_size} px at a time a step needs "
        f"{least / 2**30:.1f} GiB of memory or more, and {host.free / 2**30:.1f} GiB are free"
    )
    way_out = "use a smaller image_size or model"
    if fits:
        way_out = f"microbatch={1 << (fits.bit_length() - 1)} fits, which keeps the batch by adding gradients up"
    distributed.check_errors(ConfigError(f"{text}; {way_out}") if least > host.free else None)
    if size > max(fits, 1):
        log.warning("memory   %s; if it does not fit, the system kills the run without a word. %s", text, way_out)


def _asked_for(trainer: "Trainer") -> int:
    """Return config.microbatch within this rank's share of the batch, which null and auto begin with."""
    wanted, local_size = trainer.config.microbatch, trainer.train_loader.local_size
    return min(local_size, wanted) if isinstance(wanted, int) else local_size


def memory_advice(trainer: "Trainer") -> str:
    """Say what did not fit, and what fits: by trying, unless other ranks are waiting in a step; and what is saved."""
    if distributed.world_size() > 1:
        return _advice(trainer, fits=None, tried=False)
    text, step = _advice(trainer, fits=largest_microbatch(trainer)), trainer.last_step.saved
    return text if step is None else f"{text}. {saved_after(step, trainer.config)}"


def largest_microbatch(trainer: "Trainer") -> int | None:
    """Return the largest microbatch that fits on every rank, or None; the run's state is the same afterwards.

    Each size is tried with two steps on one batch, the first without and the second with the optimizer's state.
    """
    trainer.optimizer.zero_grad(set_to_none=True)
    before, train_model = copy_to_host(snapshot(trainer)), trainer.train_model
    # Ranks run out of memory one at a time, and must not wait for each other in a backward pass.
    trainer.train_model = trainer.model if distributed.world_size() > 1 else train_model
    trainer.train_mode()

    def attempt(microbatch: int) -> None:
        trainer.state.microbatch = microbatch
        with closing(trainer.train_loader.epoch(0)) as batches:
            batch = next(batches)
            for step in (1, 2):
                trainer.state.step = step
                trainer.train_step(batch)

    def restore() -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        load(trainer, before)

    restore()  # the step that ran out of memory may be half done
    most = trainer.train_loader.local_size
    if trainer.host is not None:  # a try that is too large would not raise an error: Linux kills the process
        most = min(most, max(trainer.host.images_that_fit(), 1))
    with step_uncompiled(trainer.optimizer):
        fits = largest_that_fits(attempt, restore, most=most, device=trainer.device)
    trainer.train_model = train_model
    return -distributed.agree(-(fits or 0)) or None


@contextmanager
def explain_out_of_memory(explain: Callable[[], str]) -> Iterator[None]:
    """Turn torch's out-of-memory error into one with the text that `explain` returns.

    Raises:
        OutOfMemory: instead of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # The frames of the failed step hold its activations, and `explain` may want to try a smaller one.
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(explain()) from None


def largest_that_fits(
    attempt: Callable[[int], None], restore: Callable[[], None], *, most: int, device: torch.device
) -> int | None:
    """Return the largest of `most`, half of it, a quarter, ... for which `attempt` fits on `device`, or None.

    `restore` is called after each attempt, when its memory is free again.
    """
    size = most
    while True:
        fits = _fits(attempt, size)
        restore()
        return_freed_memory(device)
        if fits:
            return size
        if size == 1:
            return None
        size = -(-size // 2)


def _fits(attempt: Callable[[int], None], size: int) -> bool:
    try:
        attempt(size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return False
    return True


def out_of_memory_text(
    device: torch.device, *, batch_size: int, local_size: int, microbatch: int, fits: int | None, tried: bool = True
) -> str:
    """Say that a step did not fit, and which microbatch fits.

    Args:
        fits: the largest microbatch that fits; None if not even 1 does, or if none was `tried`.
    """
    name, total = str(device), total_memory(device)
    if total is not None:
        name = f"{device} ({device_name(device)}, {total / 2**30:.0f} GiB)"
    head = (
        f"out of memory on {name}: batch_size={batch_size}, {local_size} images on this device, {microbatch} at a time"
    )
    half = -(-microbatch // 2)
    if not tried and microbatch > 1:
        return (
            f"{head}. microbatch={half} may fit, which keeps batch_size={batch_size} by adding gradients up; "
            "microbatch=auto finds what does. precision=bf16 takes about half"
        )
    if fits is None:
        return f"{head}. Not even one image at a time fits: use a smaller image_size or model, or precision=bf16"
    if fits >= microbatch:
        smaller = f"try microbatch={half}" if microbatch > 1 else "run the same command again"
        return (
            f"{head}. The same fits now that the memory is free again: another process may have had it, or it ran out "
            f"in validation; {smaller}"
        )
    return (
        f"{head}. microbatch={fits} fits, which keeps batch_size={batch_size} by adding gradients up; microbatch=auto "
        "finds it at the start of a run. precision=bf16 takes about half"
    )


def _advice(trainer: "Trainer", *, fits: int | None, tried: bool = True) -> str:
    return out_of_memory_text(
        trainer.device,
        batch_size=trainer.train_loader.batch_size,
        local_size=trainer.train_loader.local_size,
        microbatch=trainer.state.microbatch,
        fits=fits,
        tried=tried,
    )
