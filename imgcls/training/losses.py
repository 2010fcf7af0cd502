"""What training minimises."""

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class LossOutput(NamedTuple):
    """The loss to differentiate (scalar) and the logits (B, K) of the head that counts."""

    loss: Tensor
    logits: Tensor


class ClassificationLoss(nn.Module):
    """Cross-entropy, with label smoothing and the auxiliary heads of a network that has them.

    Szegedy et al. 2014, section 5: the losses of GoogLeNet's auxiliary classifiers are added with weight 0.3.
    Szegedy et al. 2016, section 7: label smoothing.
    """

    def __init__(self, *, label_smoothing: float = 0.0, auxiliary_weight: float = 0.3) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.auxiliary_weight = auxiliary_weight
        self.total_weight = 1.0  # of all the heads of the network last seen

    def forward(self, output: Tensor | tuple[Tensor, ...], targets: Tensor) -> LossOutput:
        """Compare a network's output with class indices (B,) or class probabilities (B, K).

        `output` is logits (B, K), or a tuple of which the first are the logits and the rest the auxiliary heads'.
        """
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = self._cross_entropy(logits, targets)
        self.total_weight = 1 + self.auxiliary_weight * len(auxiliary)
        for head in auxiliary:
            loss = loss + self.auxiliary_weight * self._cross_entropy(head, targets)
        return LossOutput(loss, logits)

    def at_chance(self, num_classes: int) -> float:
        """Return the loss of a network to which all classes are alike, smoothed labels or not."""
        return self.total_weight * math.log(num_classes)

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)
