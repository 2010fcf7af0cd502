"""The metrics: what is logged while a run trains and validates, and reported when a network is tested.

A metric is stated once, in METRICS: columns of metrics.csv, TensorBoard tags, log lines, results and tables derive
from it. A run with another `topk` has other top-k metrics, by `metrics_of`. Imports no torch, so that the config
and the tables of runs can name the metrics.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOPK = (1, 5)  # which top-k accuracies there are, unless a run says otherwise
TOP_K = r"top[1-9]\d*"  # their names
NUM_KEPT = 2**20  # logits that wait to be ranked: 4 MB, one batch of ImageNet or thousands of MNIST
GRAIN = 2.0**-20  # of an image's value: a millionth, about what float32 resolves in a loss


class Outputs(NamedTuple):
    """What a metric is computed from, for B images, of one batch or several, and K classes."""

    loss: "Tensor"  # (B,), the mean over the image's batch
    logits: "Tensor"  # (B, K)
    labels: "Tensor"  # (B,)
    ranked: "Tensor"  # (B, R) bool: whether the label is the most probable class, the second, ...


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
        ranks: of a top-k, k: an image counts 1 if its label is among the k most probable classes, else 0. The R of
            `Outputs` is the largest.
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
    ranks: int = 1
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


def top_k(k: int) -> Metric:
    """Return the share of images whose label is among the `k` most probable classes."""
    return Metric(
        f"top-{k}",
        lambda outputs: outputs.ranked[:, :k].any(dim=1),
        scale=100,
        unit="%",
        min_classes=k + 1,
        in_progress=k == 1,
        ranks=k,
    )


def metrics_of(topk: Iterable[int] = TOPK) -> dict[str, Metric]:
    """Return the metrics of a run or a test by their names, with a top-k for each number of `topk`."""
    return {
        "loss": Metric("loss", lambda outputs: outputs.loss, digits=4, higher_is_better=False, in_progress=True),
        **{f"top{k}": top_k(k) for k in sorted(topk)},
        "balanced": Metric(
            "balanced accuracy", lambda outputs: outputs.ranked[:, 0], scale=100, unit="%", over_classes=True
        ),
    }


METRICS = metrics_of()


def metric_of(name: str) -> Metric | None:
    """Return the metric of that name, which may be of a run with another `topk`; None if there is none."""
    return known_metrics([name]).get(name)


def known_metrics(names: Iterable[str]) -> dict[str, Metric]:
    """Return the metrics among `names`, in the order of METRICS."""
    given = set(names)
    topk = {int(name[3:]) for name in given if re.fullmatch(TOP_K, name)}
    return {name: metric for name, metric in metrics_of(topk).items() if name in given}


def percents(metrics: Mapping[str, Metric]) -> list[str]:
    """Return the names of the accuracies over images among `metrics`: what rankings of runs and members show."""
    return [name for name, metric in metrics.items() if metric.unit == "%" and not metric.over_classes]


class Scores:
    """The value of each metric, by its name: a mean over `num_images` or their classes, or None if it is not known.

    Args:
        values: by the metrics' names; those that are left out are None.
    """

    def __init__(self, num_images: int, **values: float | None) -> None:
        self.num_images = num_images
        self._values = values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or metric_of(name) is None:
            raise AttributeError(f"there is no metric {name}")
        return self._values.get(name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scores) and vars(self) == vars(other)

    def __str__(self) -> str:
        values = {name: value for name, value in self._values.items() if value is not None}
        # Where classes are even it is the top-1.
        if self.balanced is not None and f"{self.balanced:.2f}" == f"{self.top1:.2f}":
            del values["balanced"]
        # Percents are padded, so that the lines of a log are aligned.
        return "  ".join(
            f"{metric.title} {metric.text(values[name]):>{8 if metric.unit else 0}}"
            for name, metric in known_metrics(values).items()
        )

    def values(self) -> dict[str, float | None]:
        """Return the values by the metrics' names."""
        return dict(self._values)


class Meter:
    """Sums of the metrics and the number of images, kept on the device so that counting never waits for it.

    A network's device without float64 keeps them on the CPU, and is waited for once in NUM_KEPT logits.

    Args:
        device: where the sums are, which has float64.
        num_classes: to count by class too, for the metrics that are a mean over classes; 0 leaves them unknown.
        metrics: what to count, by name.

    A step only keeps its loss, logits and labels; the metrics are computed of many steps at once, where `sums` is read
    or after NUM_KEPT logits. On a small network ranking each batch's logits would cost a percent of the step.
    """

    def __init__(self, device: "torch.device", num_classes: int = 0, metrics: Mapping[str, Metric] = METRICS) -> None:
        import torch

        self.metrics = metrics
        self._of_images, self._of_classes = _by_kind(metrics)
        self._num_ranked = max(metric.ranks for metric in metrics.values())
        # float64: an ImageNet epoch adds 1.28 million losses.
        self._sums = torch.zeros(len(self._of_images) + 1, dtype=torch.float64, device=device)
        self._by_class = torch.zeros(len(self._of_classes) + 1, num_classes, dtype=torch.float64, device=device)
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
        """The sum of each metric and the number of images, then the same by class if counted: float64, where kept.

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
        outputs = Outputs(losses, logits, labels, rank_labels(logits, labels, self._num_ranked))
        device = self._sums.device
        values = torch.stack([metric.of_images(outputs).to(device).double() for metric in self._of_images.values()])
        # Multiples of a small power of two add up exactly, in any order and in any groups: the sums of a resumed run,
        # which was saved between two logs, are those of the unbroken one.
        self._sums[:-1] += (values / GRAIN).round().mul(GRAIN).sum(dim=1)
        self._sums[-1] += len(labels)
        if self._by_class.numel():
            labels = labels.to(device)
            ones = torch.ones_like(labels, dtype=torch.float64)
            means = (metric.of_images(outputs).to(device).double() for metric in self._of_classes.values())
            values = torch.stack([*means, ones])
            self._by_class.index_add_(1, labels, (values / GRAIN).round().mul(GRAIN))
        self._kept.clear()
        self._num_kept = 0

    def scores(self, num_classes: int) -> Scores:
        """Return the means so far, which waits for the device."""
        return scores_of(self.sums, num_classes, self.metrics)


def scores_of(sums: "Tensor", num_classes: int, metrics: Mapping[str, Metric] = METRICS) -> Scores:
    """Return the means of the sums of a meter of `metrics`; with no image counted they are nan."""
    of_images, of_classes = _by_kind(metrics)
    *totals, num_images = sums[: len(of_images) + 1].tolist()
    share = 1 / num_images if num_images else float("nan")
    values: dict[str, Any] = dict.fromkeys(metrics)
    for (name, metric), total in zip(of_images.items(), totals, strict=True):
        values[name] = metric.scale * total * share if num_classes >= metric.min_classes else None
    by_class = sums[len(of_images) + 1 :].reshape(len(of_classes) + 1, -1)
    if by_class.numel():
        counts = by_class[-1]
        means = (by_class[:-1] / counts)[:, counts > 0].mean(dim=1).tolist()
        values |= {name: metric.scale * mean for (name, metric), mean in zip(of_classes.items(), means, strict=True)}
    return Scores(int(num_images), **values)


def _by_kind(metrics: Mapping[str, Metric]) -> tuple[dict[str, Metric], dict[str, Metric]]:
    """Return the metrics that are means over images, and those over classes."""
    kinds: tuple[dict[str, Metric], dict[str, Metric]] = ({}, {})
    for name, metric in metrics.items():
        kinds[metric.over_classes][name] = metric
    return kinds


def rank_labels(logits: "Tensor", labels: "Tensor", num_ranked: int = max(TOPK)) -> "Tensor":
    """Return (B, min(num_ranked, K)) bool: whether the label is the most probable class, the second, ..."""
    return logits.topk(min(num_ranked, logits.shape[1]), dim=1).indices == labels[:, None]
