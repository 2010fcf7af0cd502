"""Memory: what a step frees is kept for the next; and running out of the GPU's, with the microbatch that fits."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from imgcls.errors import RunError


class OutOfMemory(RunError):
    """A batch does not fit on the device: its text names the sizes and what would fit."""


@contextmanager
def explain_out_of_memory(explain: Callable[[], str]) -> Iterator[None]:
    """Turn CUDA's out-of-memory error into the text that `explain` gives.

    Raises:
        OutOfMemory: in place of torch's own.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        # The frames of the failed step hold its activations, and `explain` may want to try a smaller one.
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(explain()) from None


def largest_that_fits(attempt: Callable[[int], None], put_back: Callable[[], None], *, most: int) -> int | None:
    """Return the largest of `most`, half of it, a quarter, ... for which `attempt` does not run out; None if 1 does.

    `put_back` is called after each attempt, when what it held is free again.
    """
    size = most
    while True:
        fits = _fits(attempt, size)
        put_back()
        torch.cuda.empty_cache()
        if fits:
            return size
        if size == 1:
            return None
        size = -(-size // 2)


def _fits(attempt: Callable[[int], None], size: int) -> bool:
    try:
        attempt(size)
    except torch.cuda.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)
        return False
    return True


def out_of_memory_text(
    device: torch.device, *, batch_size: int, local_size: int, microbatch: int, fits: int | None, tried: bool = True
) -> str:
    """Say that a step did not fit, and with which microbatch it would: `fits`, or none if that was `tried`."""
    name = str(device)
    if device.type == "cuda":
        gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        name = f"{device} ({torch.cuda.get_device_name(device)}, {gib:.0f} GiB)"
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
