"""Pictures of a run and of a network: curves, first filters, and what it looks at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from imgcls.data.decoding import BadImageError
from imgcls.data.loading import view_images
from imgcls.data.sets import readable_names
from imgcls.environment import default_num_threads
from imgcls.inference.charts import Curve, draw_curves
from imgcls.inference.figures import CaptionedImage, contact_sheet, filter_grid, heat_overlay
from imgcls.inference.gradcam import grad_cam
from imgcls.inference.network import Member, known_classes, validation_crop
from imgcls.inference.protocols import Center
from imgcls.metrics import known_metrics, percents
from imgcls.models import first_convolution
from imgcls.runs import METRICS_FILE, check_regular, read_metrics


def read_curves(run_dir: Path) -> dict[str, Curve]:
    """Return the columns of a run's metrics.csv over its epochs: train from within them, validation from their ends.

    Raises:
        FileNotFoundError: there is no metrics.csv.
        ValueError: it is not one, or holds no rows yet.
    """
    file = run_dir / METRICS_FILE
    check_regular(file)
    if not file.exists():
        raise FileNotFoundError(
            f"{run_dir}: there is no {METRICS_FILE}; give the folder of a run, as runs/resnet18-shapes/x"
        )
    rows = read_metrics(file)
    if not rows:
        raise ValueError(f"{file} holds no rows of a run yet")
    ends = [(int(row["epoch"]), int(row["step"])) for row in rows if row["val/top1"]]
    if not ends:
        raise ValueError(f"{file} holds no finished epoch yet")
    curves = {}
    metrics = known_metrics(column.removeprefix("val/") for column in rows[0])
    for column in (*(f"{split}/{name}" for name in metrics for split in ("train", "val")), "lr"):
        source = column.replace("train/", "train_epoch/") if _has_epoch_means(rows) else column
        points = [
            (_epoch_of(int(row["step"]), ends), float(row[source]))
            for row in rows
            if row.get(source) and (row["val/top1"] if column != "lr" else True)
        ]
        if points:
            curves[column] = Curve(column, [x for x, _ in points], [y for _, y in points])
    return curves


def _has_epoch_means(rows: Sequence[Mapping[str, str]]) -> bool:
    """Return False for a run of an earlier version, whose means over an epoch are in the rows of its end."""
    return "train_epoch/loss" in rows[0]


def _epoch_of(step: int, ends: Sequence[tuple[int, int]]) -> float:
    # Steps to epochs as real numbers: by the ends of the epochs around.
    epochs, steps = [0, *(epoch for epoch, _ in ends)], [0, *(end for _, end in ends)]
    if step > steps[-1] and len(steps) > 1:
        return epochs[-1] + (step - steps[-1]) / max(1, (steps[-1] - steps[0]) / max(1, epochs[-1]))
    return float(np.interp(step, steps, epochs))


def plot_runs(run_dirs: Sequence[Path]) -> Image.Image:
    """Draw the metrics over the epochs: of one run, training and validation; of several, validation loss and top-1."""
    if len(run_dirs) == 1:
        curves = {
            column: curve._replace(name=column.replace("/", " ")) for column, curve in read_curves(run_dirs[0]).items()
        }
        metrics = known_metrics(column.partition("/")[2] for column in curves)
        return draw_curves(
            [
                *((metric.title, _both_splits(curves, [name])) for name, metric in metrics.items() if not metric.unit),
                ("accuracy, %", _both_splits(curves, percents(metrics))),
                ("learning rate", [curves["lr"]] if "lr" in curves else []),
            ]
        )
    losses, tops = [], []
    for run_dir, name in zip(run_dirs, distinct_names(run_dirs), strict=True):
        curves = read_curves(run_dir)
        losses.append(curves["val/loss"]._replace(name=name))
        tops.append(curves["val/top1"]._replace(name=name))
    return draw_curves([("validation loss", losses), ("validation top-1, %", tops)])


def _both_splits(curves: dict[str, Curve], names: Sequence[str]) -> list[Curve]:
    columns = [f"{split}/{name}" for name in names for split in ("train", "val")]
    return [curves[column] for column in columns if column in curves]


def distinct_names(run_dirs: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ from run to run, and at most 72 letters of each."""
    parts = [path.resolve().parts for path in run_dirs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(set(run_dirs)):
            break
    return [name if len(name) <= 72 else f"{name[:34]}...{name[-35:]}" for name in names]


def plot_filters(network: nn.Module) -> Image.Image:
    """Draw the kernels of the first convolution: Krizhevsky et al. 2012, figure 3.

    Raises:
        ValueError: it has none that can be shown.
    """
    weights = first_convolution(network)
    if weights is None:
        raise ValueError(f"{type(network).__name__} has no first convolution on gray or RGB images to show")
    return filter_grid(weights.cpu().numpy())


def plot_gradcam(
    member: Member, files: Sequence[str], *, device: torch.device, class_name: str | None = None
) -> tuple[Image.Image, list[BadImageError]]:
    """Draw each file as the network sees it, and Grad-CAM over it; return the files that cannot be decoded too.

    Args:
        class_name: whose evidence to show; None: each image's most probable class.

    Raises:
        ValueError: the network does not know the class, or no image can be read.
    """
    network = member.build(device, channels_last=False)
    classes = known_classes(member)
    shown = readable_names(classes)
    if class_name is not None and class_name not in [*classes, *shown]:
        raise ValueError(f"class={class_name} is none that the network knows: {', '.join(shown[:10])}, ...")
    wanted = None if class_name is None else (classes if class_name in classes else shown).index(class_name)
    crop = validation_crop(member)
    size, prepare = member.config.input_size, member.prepare(device)
    bad: list[BadImageError] = []
    items = []
    images = view_images(
        member.files(files),
        range(len(files)),
        lambda height, width: Center().views(height, width, image_size=size, crop=crop),
        channels=member.config.data.channels,
        num_threads=default_num_threads(),
        interpolation=member.interpolation,
        on_bad=lambda _, error: bad.append(error),
    )
    for viewed in images:
        pixels = viewed.views[0]
        given = prepare(torch.from_numpy(pixels[None]).to(device))
        with torch.inference_mode():
            probabilities = network(given).softmax(dim=1)[0]
        chosen = int(probabilities.argmax()) if wanted is None else wanted
        heat = grad_cam(network, given, torch.tensor([chosen], device=device))[0].cpu().numpy()
        overlay = heat_overlay(pixels, heat)
        items.append(CaptionedImage(pixels, [(Path(files[viewed.index]).name, None)]))
        items.append(CaptionedImage(overlay, [(f"{100 * float(probabilities[chosen]):.0f} %  {shown[chosen]}", None)]))
    if not items:
        raise ValueError("none of the images can be read")
    return contact_sheet(items, columns=min(6, len(items))), bad
