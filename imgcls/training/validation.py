"""Validation: the scores of a network over all validation images."""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls import distributed
from imgcls.data.loading import Batch
from imgcls.device import float64_device
from imgcls.metrics import METRICS, Meter, Metric, Scores, scores_of


@torch.inference_mode()
def validate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    prepare: Callable[[Tensor], Tensor],
    num_classes: int,
    metrics: Mapping[str, Metric] = METRICS,
    device: torch.device,
    autocast: torch.dtype | None = None,
    microbatch: int | None = None,
    out_of_memory: Callable[[RuntimeError, int], int] | None = None,
    after_batch: Callable[[Meter], None] = lambda meter: None,
) -> Scores:
    """Score `model` over exactly the images of `batches`, and over those of all ranks.

    Args:
        batches: uint8 images (B, H, W, C) and labels (B,), each image once, each rank its own share.
        metrics: what to score, by name.
        prepare: uint8 images to what the network takes, (B, C, H, W) normalised.
        autocast: the dtype of mixed precision, or None for float32.
        microbatch: how many images of a batch the network takes at a time, or None for all.
        out_of_memory: called with an error and the number of images at a time, returns a smaller number or raises it.
        after_batch: called after each batch with this rank's sums so far.
    """
    was_training = model.training
    model.eval()
    meter = Meter(float64_device(device), num_classes, metrics)
    for batch in batches:
        if len(batch.labels):  # none is left where all of them were bad
            size, logits = microbatch or len(batch.images), None
            while logits is None:
                try:
                    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                        logits = torch.cat([model(prepare(part)) for part in batch.images.split(size)])
                except RuntimeError as error:
                    if out_of_memory is None:
                        raise
                    microbatch = size = out_of_memory(error, size)
            meter.update(F.cross_entropy(logits.float(), batch.labels), logits, batch.labels)
        after_batch(meter)
    model.train(was_training)
    return scores_of(distributed.all_reduce_sum(meter.sums), num_classes, metrics)
