"""Pictures show what they are given, and Grad-CAM is its paper's formula."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from imgcls.environment import CONF_DIR
from imgcls.inference import (
    CaptionedImage,
    contact_sheet,
    distinct_names,
    filter_grid,
    grad_cam,
    plot_filters,
    read_curves,
)
from imgcls.inference.figures import font, shortened
from imgcls.models import VGG, AlexNet, GoogLeNet, ResNet
from imgcls.runs import columns_of


def test_a_sheet_holds_every_image() -> None:
    shades = [np.full((20, 30, 1), 40 * k, np.uint8) for k in range(5)]
    page = contact_sheet([CaptionedImage(shade, [("a line " * 20, True)]) for shade in shades], thumbnail=90)
    colours = {value for _, value in page.getcolors(10**6) or []}
    for k in range(5):
        assert (40 * k,) * 3 in colours


def test_long_lines_lose_their_middle() -> None:
    face = font(13)
    assert shortened("short", face, 200) == "short"
    cut = shortened("a very long name of a class indeed 97 %", face, 120)
    assert face.getlength(cut) <= 120
    assert cut.startswith("a ve")
    assert cut.endswith("97 %")


def test_filters_are_laid_out_one_by_one() -> None:
    weights = np.stack([np.linspace(0, 1, 75).reshape(3, 5, 5)] * 7)
    picture = np.asarray(filter_grid(weights, zoom=2))
    assert picture.shape == (2 * 14 + 4, 4 * 14 + 4, 3)
    assert picture[4, 4].tolist() == [0, 86, 172]  # thirds of the range: a channel each
    with pytest.raises(ValueError, match="no first convolution"):
        plot_filters(nn.Linear(2, 2))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.fc = nn.Linear(2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu_(self.conv(images)).mean(dim=(2, 3)))


def test_grad_cam_is_its_formula() -> None:
    torch.manual_seed(0)
    network = Tiny()
    images = torch.rand(2, 1, 6, 8)
    classes = torch.tensor([2, 0])
    maps = torch.relu(network.conv(images)).detach()
    # Behind an average, the gradient of a class score is its weight over the number of positions.
    weights = network.fc.weight.detach()[classes][:, :, None, None] / 48
    expected = (maps * weights).sum(dim=1).relu()
    expected = expected / expected.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    assert torch.allclose(grad_cam(network, images, classes), expected, atol=1e-5)


@pytest.mark.parametrize(
    "build, size",
    [
        pytest.param(lambda: AlexNet(5), 131, id="AlexNet"),
        pytest.param(lambda: VGG(5, column="A"), 64, id="VGG", marks=pytest.mark.e2e),
        pytest.param(lambda: ResNet(5, depth=18), 64, id="ResNet"),
        pytest.param(lambda: GoogLeNet(5), 64, id="GoogLeNet"),
        pytest.param(lambda: torchvision.models.mobilenet_v3_small(num_classes=5), 64, id="torchvision's MobileNet"),
    ],
)
def test_every_family_has_a_grad_cam(build: Callable[[], nn.Module], size: int) -> None:
    heat = grad_cam(build().eval(), torch.rand(1, 3, size, size), torch.tensor([1]))
    assert heat.shape[0] == 1
    assert heat.min() >= 0
    assert heat.max() <= 1 + 1e-6


def test_grad_cam_needs_maps() -> None:
    with pytest.raises(ValueError, match="Sequential has no maps"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2), torch.tensor([0]))


def run_folder(path: Path, *, earlier_version: bool = False) -> Path:
    path.mkdir(parents=True)
    means = "train" if earlier_version else "train_epoch"
    rows = [
        {"epoch": 1, "step": 5, "lr": 0.1, "train/loss": 3.0, "train/top1": 10},
        {"epoch": 1, "step": 10, "lr": 0.1, f"{means}/loss": 2.5, f"{means}/top1": 20, "val/loss": 2.4, "val/top1": 25},
        {"epoch": 2, "step": 15, "lr": 0.05, "train/loss": 2.0, "train/top1": 30},
        {
            "epoch": 2,
            "step": 20,
            "lr": 0.01,
            f"{means}/loss": 1.5,
            f"{means}/top1": 40,
            "val/loss": 1.4,
            "val/top1": 45,
        },
    ]
    with (path / "metrics.csv").open("w", newline="") as file:
        columns = [column for column in columns_of() if not (earlier_version and column.startswith("train_epoch/"))]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("earlier_version", [False, True])
def test_curves_are_those_of_metrics_csv(earlier_version: bool, tmp_path: Path) -> None:
    found = read_curves(run_folder(tmp_path / "a", earlier_version=earlier_version))
    assert found["val/top1"] == ("val/top1", [1.0, 2.0], [25.0, 45.0])
    assert found["train/loss"].ys == [2.5, 1.5]
    assert found["lr"] == ("lr", [0.5, 1.0, 1.5, 2.0], [0.1, 0.1, 0.05, 0.01])
    assert "val/top5" not in found


@pytest.mark.e2e
def test_plots_are_written_from_the_command_line(tmp_path: Path) -> None:
    run_folder(tmp_path / "x/a")
    run_folder(tmp_path / "y/a")
    plot = [sys.executable, str(CONF_DIR.parent / "scripts/plot.py")]
    done = subprocess.run([*plot, "x/a", "y/a", "out=both"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "both/curves.png\n"
    assert Image.open(tmp_path / "both/curves.png").width == 1280  # two panels
    done = subprocess.run([*plot, "none"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "none: there is no metrics.csv" in done.stderr
    assert not (tmp_path / "none").exists()


def test_runs_are_named_by_what_tells_them_apart() -> None:
    assert distinct_names([Path("x/a"), Path("x/b")]) == ["a", "b"]
    assert distinct_names([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]


@pytest.mark.parametrize("content", ["", "epoch,step,val/top1\n1,5,\n"])
def test_metrics_that_say_nothing_yet_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(ValueError, match=r"metrics.csv holds no"):
        read_curves(tmp_path)
