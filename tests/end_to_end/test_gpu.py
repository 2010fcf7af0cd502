"""What only a GPU can show: `pytest -m gpu`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls import distributed
from imgcls.checkpoints import load_checkpoint
from imgcls.config import Config, compose
from imgcls.training import build_trainer, open_run_directory

pytestmark = pytest.mark.gpu


def fit(config: Config, path: Path) -> dict[str, Any]:
    with distributed.process_group(config.device) as device, open_run_directory(config, path) as run_dir:
        return build_trainer(config, run_dir, device).fit()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "auto"])
def test_a_run_learns_in_every_precision(precision: str, tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    results = fit(tiny_config("device=cuda", "epochs=8", f"precision={precision}"), tmp_path / "run")
    assert results["val_top1"] > 60


def tiny(folder: Path, *overrides: str) -> Config:
    scale = ["image_size=96", "batch_size=12", "epochs=2", "logger=none"]
    return compose(["data=folder", f"data.root={folder}", *scale, "device=cuda", *overrides])


@pytest.mark.parametrize("model", ["resnet18", "googlenet", "alexnet", "vgg11_bn"])
def test_networks_train_in_mixed_precision_compiled(model: str, tiny_folder: Path, tmp_path: Path) -> None:
    assert fit(tiny(tiny_folder, f"model={model}", "max_steps=4", "compile=true"), tmp_path / "run")["steps"] == 4


def test_with_deterministic_the_same_seed_gives_the_same_bits(tiny_folder: Path, tmp_path: Path) -> None:
    config = tiny(tiny_folder, "model=resnet18", "augment=modern", "deterministic=true")
    weights = []
    for name in ("one", "two"):
        fit(config, tmp_path / name)
        weights.append(load_checkpoint(tmp_path / name / "last.pt")["model"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
