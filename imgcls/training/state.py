"""TODO imgcls.training.state."""

import math
from dataclasses import dataclass
from typing import Literal

from imgcls.metrics import Scores


@dataclass
class State:
    """Where a run is: `batch` optimizer steps into epoch `epoch` (the first is 0), `step` since the start."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_top1: float = -math.inf
    best_top5: float | None = None
    best_loss: float = math.inf
    microbatch: int = 0  # images at a time and device
    rollbacks: int = 0
    moving_step: int = 0  # the last logged one whose loss was not at chance
    seconds: float = 0.0

    def better(self, val: Scores, metric: Literal["top1", "top5", "loss"]) -> bool:
        """Tell whether scores beat the best so far."""
        if metric == "loss":
            return val.loss < self.best_loss
        if metric == "top5":
            return val.top5 is not None and (self.best_top5 is None or val.top5 > self.best_top5)
        return val.top1 > self.best_top1
