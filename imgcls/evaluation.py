"""How well a network does on images it was not trained on."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.data.loader import Batch
from imgcls.metrics import Meter, Scores


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    prepare: Callable[[Tensor], Tensor],
    num_classes: int,
    device: torch.device,
    autocast: torch.dtype | None = None,
    after_batch: Callable[[Meter], None] = lambda meter: None,
) -> Scores:
    """Score `model` over exactly the images of `batches`, and over those of all ranks.

    Args:
        batches: uint8 images (B, H, W, C) and labels (B,), each image once, each rank its own share.
        prepare: uint8 images to what the network takes, (B, C, H, W) normalised.
        autocast: the dtype of mixed precision, or None for float32.
        after_batch: called after each batch with this rank's sums so far.
    """
    was_training = model.training
    model.eval()
    meter = Meter(device)
    for batch in batches:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            logits = model(prepare(batch.images))
        meter.update(F.cross_entropy(logits.float(), batch.labels), logits, batch.labels)
        after_batch(meter)
    model.train(was_training)
    return meter.scores(num_classes, over_ranks=True)
