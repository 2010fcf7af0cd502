"""What a run leaves to look at: TensorBoard, metrics.csv, and the bar or the lines on the terminal."""

import csv
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imgcls.metrics import Scores

log = logging.getLogger(__name__)
COLUMNS = ("epoch", "step", "lr", "train/loss", "train/top1", "train/top5", "val/loss", "val/top1", "val/top5")
# What TensorBoard's table of hyperparameters shows of a config: all of it would bury what runs differ in.
COMPARED = (
    "batch_size",
    "data.name",
    "ema_decay",
    "epochs",
    "image_size",
    "label_smoothing",
    "model.",
    "optimizer.",
    "recipe.name",
    "schedule.",
    "seed",
)


class Events:
    """Writes metrics.csv and TensorBoard events of a run; on ranks other than the main one it writes nothing.

    metrics.csv holds only what the seed decides, no times, so that two runs can be compared byte for byte. A resumed
    run cuts both off at its checkpoint (`position` is saved in it), so that no step is told twice.
    """

    def __init__(self, run_dir: Path, *, tensorboard: bool, enabled: bool, position: dict[str, int] | None) -> None:
        self.run_dir = run_dir
        self.enabled = enabled
        self._tensorboard = None
        if not enabled:
            return
        self._cut_off(position or {})
        self._csv_file = (run_dir / "metrics.csv").open("a", newline="")
        self._csv: csv.DictWriter[str] = csv.DictWriter(self._csv_file, COLUMNS, lineterminator="\n")
        if self._csv_file.tell() == 0:
            self._csv.writeheader()
        if tensorboard:
            # Imported here: it costs a second that a run without it need not spend.
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(run_dir))

    def _files(self) -> list[Path]:
        return [self.run_dir / "metrics.csv", *sorted(self.run_dir.glob("events.out.tfevents.*"))]

    def _cut_off(self, position: dict[str, int]) -> None:
        for file in self._files():
            size = position.get(file.name, 0)
            if file.exists() and file.stat().st_size < size:
                log.warning("%s has lost its last lines, which the checkpoint counts on", file)
            if file.exists() and size == 0:
                file.unlink()
            elif file.exists() and file.stat().st_size > size:
                with file.open("r+b") as stream:
                    stream.truncate(size)

    def position(self) -> dict[str, int]:
        """Return how long each file is now, once everything is written out."""
        if not self.enabled:
            return {}
        self._csv_file.flush()
        if self._tensorboard is not None:
            self._tensorboard.flush()
        return {file.name: file.stat().st_size for file in self._files()}

    def write(
        self, *, epoch: int, step: int, lr: float, train: Scores | None = None, val: Scores | None = None
    ) -> None:
        """Write scores after optimizer step `step`, in epoch `epoch` (the first is 1)."""
        if not self.enabled:
            return
        row: dict[str, Any] = {"epoch": epoch, "step": step, "lr": lr}
        for split, scores in (("train", train), ("val", val)):
            if scores is not None:
                row |= {f"{split}/loss": scores.loss, f"{split}/top1": scores.top1, f"{split}/top5": scores.top5}
        self._csv.writerow(row)
        told = {"train/lr": lr} | {key: value for key, value in row.items() if "/" in key and value is not None}
        self.scalars(step, told)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write `values` to TensorBoard alone."""
        if self._tensorboard is not None:
            for tag, value in values.items():
                self._tensorboard.add_scalar(tag, value, step)

    def images(self, tag: str, images: Tensor, step: int) -> None:
        """Write a grid of up to 16 normalised images (B, C, H, W), each stretched to its own range."""
        if self._tensorboard is None:
            return
        self._tensorboard.add_image(tag, grid(images[:16]), step)

    def filters(self, model: nn.Module, step: int) -> None:
        """Write the first convolution's kernels as images, as Krizhevsky et al. 2012, figure 3."""
        if self._tensorboard is None:
            return
        first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
        # A kernel of 3 or fewer pixels shows nothing; one of other than 1 or 3 channels is no image.
        if first is not None and first.weight.shape[1] in (1, 3) and first.kernel_size[0] > 1:
            self._tensorboard.add_image("model/conv1", grid(first.weight, zoom=4), step)

    def hparams(self, config: dict[str, Any], results: dict[str, Any]) -> None:
        """Write the config and the final metrics for TensorBoard's table of hyperparameters."""
        if self._tensorboard is None:
            return
        from torch.utils.tensorboard.summary import hparams

        compared = {key: value for key, value in config.items() if key.startswith(COMPARED) and value is not None}
        plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in compared.items()}
        metrics = {
            f"final/{key}": value for key, value in results.items() if key.startswith("val_") and value is not None
        }
        for summary in hparams(plain, metrics):
            assert self._tensorboard.file_writer is not None
            self._tensorboard.file_writer.add_summary(summary)
        for tag, value in metrics.items():
            self._tensorboard.add_scalar(tag, value)

    def close(self) -> None:
        if self.enabled:
            self._csv_file.close()
            if self._tensorboard is not None:
                self._tensorboard.close()


def grid(images: Tensor, *, zoom: int = 1) -> Tensor:
    """Lay images (B, C, H, W) of any range out as one uint8 image (C, H', W'), each stretched to 0..255."""
    from torchvision.utils import make_grid

    images = images.detach().float().cpu()
    if zoom > 1:
        images = nn.functional.interpolate(images, scale_factor=zoom, mode="nearest")
    columns = max(1, round(len(images) ** 0.5))
    tiled = make_grid(images, nrow=columns, padding=2, normalize=True, scale_each=True, pad_value=1.0)
    return (tiled * 255).to(torch.uint8)
