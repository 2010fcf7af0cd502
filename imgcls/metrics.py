"""Loss, top-1 and top-5 as sums on the device, and what they say once they are read."""

from typing import NamedTuple

import torch
from torch import Tensor

from imgcls import distributed


class Scores(NamedTuple):
    """Means over the images counted: loss in nats, accuracies in percent; top5 is None with fewer than 6 classes."""

    loss: float
    top1: float
    top5: float | None
    num_images: int

    def __str__(self) -> str:
        top5 = "" if self.top5 is None else f"  top-5 {self.top5:6.2f} %"
        return f"loss {self.loss:.4f}  top-1 {self.top1:6.2f} %{top5}"


class Meter:
    """Sums of loss and hits since the last reset, kept on the device so that counting never waits for it."""

    def __init__(self, device: torch.device) -> None:
        # float64: an ImageNet epoch adds 1.28 million losses, and the sum must not depend on how a run was cut.
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: its mean loss (scalar), logits (B, K) and labels (B,)."""
        top1, top5 = hits(logits, labels)
        num_images = torch.full_like(loss, len(labels), dtype=torch.float64)
        self.sums += torch.stack([loss.detach().double() * len(labels), top1.double(), top5.double(), num_images])

    def scores(self, num_classes: int, *, over_ranks: bool = False) -> Scores:
        """Read the sums, which waits for the device; `over_ranks` adds up those of all ranks first."""
        sums = distributed.all_reduce_sum(self.sums.clone()) if over_ranks else self.sums
        return scores_of(sums, num_classes)


def scores_of(sums: Tensor, num_classes: int) -> Scores:
    """Turn a meter's sums (4,) into means; with no image counted, loss and accuracies are nan."""
    loss, top1, top5, num_images = sums.tolist()
    share = 1 / num_images if num_images else float("nan")
    return Scores(loss * share, 100 * top1 * share, 100 * top5 * share if num_classes > 5 else None, int(num_images))


def hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the images (B, K), (B,) whose label is the most probable class, and among the five most probable."""
    ranked = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return ranked[:, 0].sum(), ranked.sum()
