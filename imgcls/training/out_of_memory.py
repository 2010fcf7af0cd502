"""What a run does when a step or a validation does not fit on the device: it saves first, where it can."""

import traceback
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imgcls import distributed
from imgcls.device import is_out_of_memory, return_freed_memory
from imgcls.training.divergence import DivergedError
from imgcls.training.microbatch import memory_advice
from imgcls.training.saving import save

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer


def save_after_out_of_memory(trainer: "Trainer", error: Exception) -> None:
    """Save a run of one process as it was after its last whole step, if a step since its last save is lost otherwise.

    Several ranks have saved already if they could: see `finish_step`.
    """
    last_step, step = trainer.last_step, trainer.state.step
    if distributed.world_size() > 1 or not _has_steps_to_lose(trainer) or not last_step.restore():
        return
    # The frames of the failed step hold its activations, where saving may need some memory.
    traceback.clear_frames(error.__traceback__)
    trainer.optimizer.zero_grad(set_to_none=True)
    try:
        save(trainer)
    except DivergedError:
        return  # that run ends at its last checkpoint in any case
    except RuntimeError as again:
        if not is_out_of_memory(again):
            raise
        return
    trainer.checkpoints.settle()
    last_step.saved = step


def finish_step(
    trainer: "Trainer", error: RuntimeError, images: Tensor, targets: Tensor, num_parts: int
) -> tuple[Tensor, Tensor]:
    """Take a step again, in smaller parts, that ran out of memory on this one of several ranks; end all ranks after it.

    The others wait for this rank's gradients, on GPUs within a kernel: only after the step can all of them save.

    Args:
        num_parts: in which the step did not fit.

    Returns:
        What `Trainer.gradients` returns.

    Raises:
        RuntimeError: `error`, if it is another one, nobody waits, no step would be lost, no smaller parts fit, or the
            step cannot be taken again: gradients are exchanged already, or the forward pass exchanges something itself.
    """
    network = getattr(trainer.train_model, "_orig_mod", trainer.train_model)
    exchanges_gradients_alone = isinstance(network, DistributedDataParallel) and not any(
        isinstance(layer, nn.SyncBatchNorm) for layer in network.modules()
    )
    while (
        exchanges_gradients_alone
        and _has_steps_to_lose(trainer)
        and is_out_of_memory(error)
        and trainer.last_step.may_repeat
        and num_parts < len(images)
    ):
        num_parts = min(2 * num_parts, len(images))
        traceback.clear_frames(error.__traceback__)
        trainer.last_step.restore()
        trainer.optimizer.zero_grad(set_to_none=True)
        return_freed_memory(trainer.device)
        trainer.seed_step()
        try:
            result = trainer.gradients(images, targets, num_parts)
        except RuntimeError as again:
            error = again
            continue
        trainer.failure = memory_advice(trainer)
        return result
    raise error


def smaller_part(trainer: "Trainer", error: RuntimeError, size: int) -> int:
    """Return how many images this one of several ranks validates at a time where `size` ran out of memory.

    The others wait for it at the end; all ranks save and end as soon as they agree.

    Raises:
        RuntimeError: `error`, if it is another one, there is one rank, or a single image does not fit.
    """
    if distributed.world_size() == 1 or size == 1 or not is_out_of_memory(error):
        raise error
    traceback.clear_frames(error.__traceback__)
    return_freed_memory(trainer.device)
    trainer.failure = memory_advice(trainer)
    return -(-size // 2)


def _has_steps_to_lose(trainer: "Trainer") -> bool:
    """Return True unless the run has just begun, or been resumed: then there is nothing to save."""
    return trainer.state.step not in (0, trainer.resumed_at)
