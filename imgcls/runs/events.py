"""The files that show how a run went: metrics.csv and TensorBoard events. torch is imported when they are written."""

import csv
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls.metrics import METRICS, Scores
from imgcls.runs.directory import EVENT_FILES, METRICS_FILE

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
    """Write metrics.csv and the TensorBoard events of a run; ranks other than 0 (not `enabled`) write nothing.

    metrics.csv has no times, only what the seed decides, so that two runs can be compared byte for byte. A resumed run
    cuts both off at its checkpoint, which saves their `position`, so that no step is written twice.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        tensorboard: bool,
        enabled: bool,
        position: dict[str, int] | None,
        averages: bool = False,
        metrics: Iterable[str] = METRICS,
    ) -> None:
        self.run_dir = run_dir
        self.enabled = enabled
        self._tensorboard = None
        if not enabled:
            return
        self._cut_off(position or {})
        self._csv_file = (run_dir / METRICS_FILE).open("a", newline="")
        columns = _columns(run_dir / METRICS_FILE) or columns_of(metrics, averages=averages)
        self._csv = csv.DictWriter(self._csv_file, columns, extrasaction="ignore", lineterminator="\n")
        if self._csv_file.tell() == 0:
            self._csv.writeheader()
        if averages and f"{RAW}/loss" not in columns:
            log.info("%s was begun without the average: TensorBoard alone gets val_raw/", METRICS_FILE)
        if tensorboard:
            # Imported here: it takes a second, which a run without TensorBoard does not need.
            from torch.utils.tensorboard import SummaryWriter

            self._wait_for_a_later_name()
            self._tensorboard = SummaryWriter(str(run_dir))

    def _files(self) -> list[Path]:
        return [self.run_dir / METRICS_FILE, *sorted(self.run_dir.glob(EVENT_FILES))]

    def _wait_for_a_later_name(self) -> None:
        """Wait until a new event file sorts after those that are there.

        TensorBoard reads them in the order of their names, which begin with the time in whole seconds and go on with
        the process and a count, both compared as text: of two files of one second, 10 would be read before 9.
        """
        while any(self.run_dir.glob(EVENT_FILES.replace("*", f"{int(time.time()):010d}.*"))):
            time.sleep(0.02)

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
        if self._tensorboard is not None:
            self._tensorboard.flush()
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
        # TensorBoard shows tags by name: the scores of validation come first.
        self.scalars(step, {"train/lr": lr} | {key.replace("val/", "eval/"): value for key, value in scores.items()})

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write `values` to TensorBoard alone."""
        if self._tensorboard is not None:
            for tag, value in values.items():
                self._tensorboard.add_scalar(tag, value, step)

    def images(self, tag: str, images: "Tensor", step: int) -> None:
        """Write a grid of up to 16 normalised images (B, C, H, W), each stretched to its own range."""
        if self._tensorboard is None:
            return
        self._tensorboard.add_image(tag, image_grid(images[:16]), step)

    def filters(self, weights: "Tensor | None", step: int) -> None:
        """Write the kernels (N, C, H, W) of a first convolution as images, as Krizhevsky et al. 2012, figure 3."""
        if self._tensorboard is not None and weights is not None:
            self._tensorboard.add_image("visual/conv1", image_grid(weights, zoom=4), step)

    def hparams(self, config: dict[str, Any], *, model: str) -> None:
        """Write the config for TensorBoard's table of hyperparameters, under the name of the `model`.

        Each run writes its own values alone, and no list of the columns: without one TensorBoard compares the runs and
        puts the settings that differ first, and the scores of `eval/` before those of `train/`.
        """
        if self._tensorboard is None:
            return
        from torch.utils.tensorboard.summary import hparams

        # Its own column of names has room for the first 15 letters, which are those of the model and the data.
        values: dict[str, Any] = {"Model": model, "Run": self.run_dir.name}
        for key, value in config.items():
            if key != "model._target_":
                name = LEADING.get(key, key)
                value = value.rpartition(".")[2] if key.endswith("._target_") else value
                values[name] = value if isinstance(value, int | float | str) else str(value)
        _, start, end = hparams(values, {})
        for summary in (start, end):
            assert self._tensorboard.file_writer is not None
            self._tensorboard.file_writer.add_summary(summary)

    def close(self) -> None:
        if self.enabled:
            self._csv_file.close()
            if self._tensorboard is not None:
                self._tensorboard.close()


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
