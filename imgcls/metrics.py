"""The metrics: what is logged while a run trains and validates, and reported when a network is tested.

A metric is stated once, in METRICS: columns of metrics.csv, TensorBoard tags, log lines, results and tables derive
from it. Imports no torch, so that the config and the tables of runs can name the metrics.
"""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NUM_RANKED = 5
NUM_KEPT = 2**20  # logits that wait to be ranked: 4 MB, one batch of ImageNet or thousands of MNIST
GRAIN = 2.0**-20  # of an image's value: a millionth, about what float32 resolves in a loss


class Outputs(NamedTuple):
    """What a metric is computed from, for B images, of one batch or several, and K classes."""

    loss: "Tensor"  # (B,), the mean over the image's batch
    logits: "Tensor"  # (B, K)
    labels: "Tensor"  # (B,)
    ranked: "Tensor"  # (B, min(5, K)) bool: whether the label is the most probable class, the second, ...


@dataclass(frozen=True)
class Metric:
    """A mean over images, or over classes: the mean of each class's mean over its images.

    Args:
        title: its name in tables and log lines.
        of_images: its value for each image, (B,) on their device.
        scale: factor on the mean, such as 100 for percent.
        unit: printed after the value.
        digits: after the decimal point, in log lines and tables.
        higher_is_better: decides which epoch is the best.
        min_classes: with fewer classes the metric says nothing and is None.
        in_progress: shown beside the progress bar.
        over_classes: the mean is over classes, so that each counts the same however many images it has. Known of
            validation and tests alone: a training step has too few images of a class.
    """

    title: str
    of_images: Callable[[Outputs], "Tensor"]
    scale: float = 1.0
    unit: str = ""
    digits: int = 2
    higher_is_better: bool = True
    min_classes: int = 2
    in_progress: bool = False
    over_classes: bool = False

    def text(self, value: float | None, *, digits: int | None = None) -> str:
        """Return the value with its unit, such as `71.59 %`."""
        if value is None:
            return f"(fewer than {self.min_classes} classes)"
        return f"{value:.{self.digits if digits is None else digits}f}{f' {self.unit}' if self.unit else ''}"

    def better(self, value: float | None, best: float | None) -> bool:
        """Return True if `value` beats `best`; any value beats None."""
        if value is None or best is None:
            return value is not None
        return value > best if self.higher_is_better else value < best


METRICS = {
    "loss": Metric(
        "loss",
        lambda outputs: outputs.loss,
        digits=4,
        higher_is_better=False,
        in_progress=True,
    ),
    "top1": Metric("top-1", lambda outputs: outputs.ranked[:, 0], scale=100, unit="%", in_progress=True),
    "top5": Metric("top-5", lambda outputs: outputs.ranked.any(dim=1), scale=100, unit="%", min_classes=NUM_RANKED + 1),
    "balanced": Metric(
        "balanced accuracy", lambda outputs: outputs.ranked[:, 0], scale=100, unit="%", over_classes=True
    ),
}
OF_IMAGES = {name: metric for name, metric in METRICS.items() if not metric.over_classes}
OF_CLASSES = {name: metric for name, metric in METRICS.items() if metric.over_classes}
PERCENTS = [name for name, metric in OF_IMAGES.items() if metric.unit == "%"]  # what rankings of runs and members show


class Scores(namedtuple("_Scores", ["num_images", *METRICS], defaults=[None] * len(METRICS))):
    """The value of each metric, by its name: a mean over `num_images` or their classes, or None if it is not known."""

    def __str__(self) -> str:
        values = {METRICS[name]: value for name, value in self.values().items() if value is not None}
        # Where classes are even it is the top-1.
        if self.balanced is not None and f"{self.balanced:.2f}" == f"{self.top1:.2f}":
            del values[METRICS["balanced"]]
        # Percents are padded, so that the lines of a log are aligned.
        return "  ".join(
            f"{metric.title} {metric.text(value):>{8 if metric.unit else 0}}" for metric, value in values.items()
        )

    def values(self) -> dict[str, float | None]:
        """Return the values by the metrics' names."""
        return {name: getattr(self, name) for name in METRICS}


class Meter:
    """Sums of the metrics and the number of images, kept on the device so that counting never waits for it.

    Args:
        num_classes: to count by class too, for the metrics that are a mean over classes; 0 leaves them unknown.

    A step only keeps its loss, logits and labels; the metrics are computed of many steps at once, where `sums` is read
    or after NUM_KEPT logits. On a small network ranking each batch's logits would cost a percent of the step.
    """

    def __init__(self, device: "torch.device", num_classes: int = 0) -> None:
        import torch

        # float64: an ImageNet epoch adds 1.28 million losses.
        self._sums = torch.zeros(len(OF_IMAGES) + 1, dtype=torch.float64, device=device)
        self._by_class = torch.zeros(len(OF_CLASSES) + 1, num_classes, dtype=torch.float64, device=device)
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, logits and labels of each batch
        self._num_kept = 0

    def update(self, loss: "Tensor", logits: "Tensor", labels: "Tensor") -> None:
        """Count a batch: its mean loss (scalar), logits (B, K) and labels (B,), detached."""
        self._kept.append((loss, logits, labels.clone()))  # the loader reuses the memory of the labels
        self._num_kept += logits.numel()
        if self._num_kept >= NUM_KEPT:
            self._add_up()

    @property
    def sums(self) -> "Tensor":
        """The sum of each metric and the number of images, then the same by class if counted: float64, on the device.

        Of those that are means over images (metrics + 1,), then of the others (metrics + 1, classes), flat.
        """
        import torch

        if self._kept:
            self._add_up()
        return torch.cat([self._sums, self._by_class.flatten()]) if self._by_class.numel() else self._sums

    def _add_up(self) -> None:
        import torch

        losses = torch.cat([loss.expand(len(labels)) for loss, _, labels in self._kept])
        logits, labels = (torch.cat([kept[part] for kept in self._kept]) for part in (1, 2))
        outputs = Outputs(losses, logits, labels, rank_labels(logits, labels))
        values = torch.stack([metric.of_images(outputs).double() for metric in OF_IMAGES.values()])
        # Multiples of a small power of two add up exactly, in any order and in any groups: the sums of a resumed run,
        # which was saved between two logs, are those of the unbroken one.
        self._sums[:-1] += (values / GRAIN).round().mul(GRAIN).sum(dim=1)
        self._sums[-1] += len(labels)
        if self._by_class.numel():
            ones = torch.ones_like(labels, dtype=torch.float64)
            values = torch.stack([*(metric.of_images(outputs).double() for metric in OF_CLASSES.values()), ones])
            self._by_class.index_add_(1, labels, (values / GRAIN).round().mul(GRAIN))
        self._kept.clear()
        self._num_kept = 0

    def scores(self, num_classes: int) -> Scores:
        """Return the means so far, which waits for the device."""
        return scores_of(self.sums, num_classes)


def scores_of(sums: "Tensor", num_classes: int) -> Scores:
    """Return the means of a meter's sums; with no image counted they are nan."""
    *totals, num_images = sums[: len(OF_IMAGES) + 1].tolist()
    share = 1 / num_images if num_images else float("nan")
    values: dict[str, Any] = {
        name: metric.scale * total * share if num_classes >= metric.min_classes else None
        for (name, metric), total in zip(OF_IMAGES.items(), totals, strict=True)
    }
    by_class = sums[len(OF_IMAGES) + 1 :].reshape(len(OF_CLASSES) + 1, -1)
    if by_class.numel():
        counts = by_class[-1]
        means = (by_class[:-1] / counts)[:, counts > 0].mean(dim=1).tolist()
        values |= {name: metric.scale * mean for (name, metric), mean in zip(OF_CLASSES.items(), means, strict=True)}
    return Scores(int(num_images), **values)


def rank_labels(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Return (B, min(5, K)) bool: whether the label is the most probable class, the second most probable, ..."""
    return logits.topk(min(NUM_RANKED, logits.shape[1]), dim=1).indices == labels[:, None]
