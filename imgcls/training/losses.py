"""What training minimises."""

import math
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn


class LossOutput(NamedTuple):
    """The loss to differentiate (scalar) and the logits (B, K) of the head that counts."""

    loss: Tensor
    logits: Tensor


class ClassificationLoss(nn.Module):
    """Cross-entropy, with label smoothing and the auxiliary heads of a network that has them.

    Szegedy et al. 2014, section 5: the losses of GoogLeNet's auxiliary classifiers are added with weight 0.3.
    Szegedy et al. 2016, section 7: label smoothing. With `class_weights` (K,) each image's loss is multiplied by that
    of its class; the mean is still over images, so that it does not depend on how a batch is cut into parts.
    """

    def __init__(
        self, *, label_smoothing: float = 0.0, auxiliary_weight: float = 0.3, class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights)
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

    class_weights: Tensor | None

    def at_chance(self, num_classes: int) -> float:
        """Return the loss of a network to which all classes are alike, smoothed labels or not."""
        return self.total_weight * math.log(num_classes)

    def at_frequencies(self, shares: np.ndarray, num_classes: int) -> float:
        """Return the loss of a network that answers every image alike, as well as that can be done.

        Args:
            shares: of each class in the images, (K,) or fewer; they add up to 1.
        """
        weighted = np.zeros(num_classes)
        weighted[: len(shares)] = shares
        if self.class_weights is not None:
            weighted *= self.class_weights.cpu().double().numpy()
        total = weighted.sum()
        targets = (1 - self.label_smoothing) * weighted / total + self.label_smoothing / num_classes
        return self.total_weight * float(-total * (targets * np.log(np.where(targets > 0, targets, 1))).sum())

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights, smoothing = self.class_weights, self.label_smoothing
        if weights is None:
            return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        if targets.dim() == 2:  # of mixed images: weighted class by class, and the mean over images
            return F.cross_entropy(logits.float(), targets, weight=weights, label_smoothing=smoothing)
        losses = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")
        return (losses * weights[targets]).mean()
