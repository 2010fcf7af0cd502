"""What shows how a run goes: metrics.csv and the loggers. torch is imported when pictures are made."""

import csv
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls.metrics import METRICS, Scores, metric_of
from imgcls.runs.directory import EVENT_FILES, METRICS_FILE
from imgcls.runs.loggers import Description, Logger, OpenLoggers

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
# Scores of training are means over the steps since the last row, those of an epoch are means over all of its steps:
# two quantities, which one name would mix into a saw-tooth.
SPLITS = ("train", "train_epoch", "val")
RAW = "val_raw"  # of a run that averages its weights, where val/ is the average's: the scores of the weights themselves
# What comes first in TensorBoard's table of hyperparameters, which sorts capitals before small letters.
LEADING = {"recipe.name": "Recipe", "optimizer._target_": "Optimizer", "optimizer.lr": "LR"}


class Events:
    """Write metrics.csv of a run, and log to its loggers; ranks other than 0 (not `enabled`) write nothing.

    metrics.csv has no times, only what the seed decides, so that two runs can be compared byte for byte. A resumed run
    cuts its files off at its checkpoint, which saves their `position`, so that no step is written twice; services are
    given those steps again, and draw them at their place.

    Args:
        loggers: by their names, not open yet.
        position: that the checkpoint has saved of a run that is resumed; None is a run that begins.
        averages: whether the run averages its weights.
        metrics: the names of the run's metrics.

    Raises:
        ConfigError: a logger cannot be opened.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        loggers: Mapping[str, Logger],
        enabled: bool,
        position: dict[str, int] | None,
        averages: bool = False,
        metrics: Iterable[str] = METRICS,
    ) -> None:
        self.run_dir = run_dir
        self.enabled = enabled
        self._metrics = tuple(metrics)
        self._loggers = OpenLoggers()
        if not enabled:
            return
        self._cut_off(position or {})
        self._csv_file = (run_dir / METRICS_FILE).open("a", newline="")
        columns = _columns(run_dir / METRICS_FILE) or columns_of(self._metrics, averages=averages)
        self._csv = csv.DictWriter(self._csv_file, columns, extrasaction="ignore", lineterminator="\n")
        if self._csv_file.tell() == 0:
            self._csv.writeheader()
        if averages and f"{RAW}/loss" not in columns:
            log.info("%s was begun without the average: the loggers alone get val_raw/", METRICS_FILE)
        self._loggers.open(loggers, run_dir, goes_on=bool(position))

    def _files(self) -> list[Path]:
        return [self.run_dir / METRICS_FILE, *sorted(self.run_dir.glob(EVENT_FILES))]

    def _cut_off(self, position: dict[str, int]) -> None:
        for file in self._files():
            size = position.get(file.name, 0)
            if file.exists() and file.stat().st_size < size:
                log.warning("%s has lost its last lines, which its checkpoint counts", file)
            if file.exists() and size == 0:
                file.unlink()
            elif file.exists() and file.stat().st_size > size:
                with file.open("r+b") as stream:
                    stream.truncate(size)

    def position(self) -> dict[str, int]:
        """Write everything out and return the length of each file."""
        if not self.enabled:
            return {}
        self._csv_file.flush()
        self._loggers.each(lambda logger: logger.flush())
        return {file.name: file.stat().st_size for file in self._files()}

    def write(
        self,
        *,
        epoch: int,
        step: int,
        lr: float,
        train: Scores | None = None,
        train_epoch: Scores | None = None,
        val: Scores | None = None,
        raw: Scores | None = None,
    ) -> None:
        """Write scores after optimizer step `step`, in epoch `epoch` (the first is 1).

        Args:
            train: the mean since the last call; train_epoch: the mean of an epoch, at its end.
            raw: of the network itself, where `val` are those of the average of its weights.
        """
        if not self.enabled:
            return
        row: dict[str, Any] = {"epoch": epoch, "step": step, "lr": lr}
        splits = (("train", train), ("train_epoch", train_epoch), ("val", val), (RAW, raw))
        for split, scores in splits:
            if scores is not None:
                row |= {f"{split}/{name}": value for name, value in scores.values().items()}
        self._csv.writerow(row)
        scores = {key: value for key, value in row.items() if "/" in key and value is not None}
        # Loggers show tags by name: the scores of validation come first.
        self.scalars(step, {"train/lr": lr} | {key.replace("val/", "eval/"): value for key, value in scores.items()})

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Give `values` to the loggers alone."""
        self._loggers.each(lambda logger: logger.scalars(step, values))

    def images(self, tag: str, images: "Tensor", step: int) -> None:
        """Log a grid of up to 16 normalised images (B, C, H, W), each stretched to its own range."""
        if self._loggers:
            self._picture(tag, image_grid(images[:16]), step)

    def filters(self, weights: "Tensor | None", step: int) -> None:
        """Log the kernels (N, C, H, W) of a first convolution as images, as Krizhevsky et al. 2012, figure 3."""
        if self._loggers and weights is not None:
            self._picture("visual/conv1", image_grid(weights, zoom=4), step)

    def _picture(self, tag: str, picture: "Tensor", step: int) -> None:
        pixels = picture.permute(1, 2, 0).numpy()
        self._loggers.each(lambda logger: logger.image(tag, pixels, step))

    def describe(self, config: dict[str, Any], *, model: str, command: str) -> None:
        """Log what is trained, before the first step: a run that stops early has it too."""
        # TensorBoard's own column of names has room for 15 letters, which are those of the model and the data.
        settings: dict[str, Any] = {"Model": model, "Run": self.run_dir.name}
        for key, value in config.items():
            if key != "model._target_":
                name = LEADING.get(key, key)
                value = value.rpartition(".")[2] if key.endswith("._target_") else value
                settings[name] = value if isinstance(value, int | float | str) else str(value)
        charts = {
            metric.title: [f"{split}/{name}" for split in ("train", "train_epoch", "eval", RAW)]
            for name in self._metrics
            if (metric := metric_of(name)) is not None
        }
        description = Description(settings, config, command, charts)
        self._loggers.each(lambda logger: logger.describe(description))

    def close(self, *, finished: bool = False) -> None:
        """Close the files and the loggers; `finished` says whether the run came to its end."""
        if self.enabled:
            self._csv_file.close()
            self._loggers.close(finished=finished)


def columns_of(metrics: Iterable[str] = METRICS, *, averages: bool = False) -> list[str]:
    """Return the columns of a new metrics.csv of a run with these metrics, which averages its weights or does not."""
    splits = (*SPLITS, RAW) if averages else SPLITS
    return ["epoch", "step", "lr", *(f"{split}/{name}" for split in splits for name in metrics)]


def _columns(file: Path) -> list[str]:
    """Return the columns of a metrics.csv that was begun before, maybe by a version that had fewer."""
    with file.open(newline="") as lines:
        return next(csv.reader(lines), [])


def image_grid(images: "Tensor", *, zoom: int = 1) -> "Tensor":
    """Lay out images (B, C, H, W) of any range as one uint8 image (C, H', W'), each stretched to 0..255, on white."""
    import torch

    images = images.detach().float().cpu().repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    num, channels, height, width = images.shape
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    stretched = ((images - low) / (high - low).clamp(min=1e-5) * 255).to(torch.uint8)
    columns, gap = max(1, round(num**0.5)), 2
    rows = -(-num // columns)
    page = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for number, image in enumerate(stretched):
        top, left = gap + number // columns * (height + gap), gap + number % columns * (width + gap)
        page[:, top : top + height, left : left + width] = image
    return page
