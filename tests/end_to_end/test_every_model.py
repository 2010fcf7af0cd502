"""Every network of conf/model trains two steps and validates on shapes: `pytest -m slow tests/end_to_end`."""

from pathlib import Path

import pytest
import torch

from imgcls.config import compose
from imgcls.environment import CONF_DIR
from imgcls.training import build_trainer, open_run_directory

ARCHS = {"torchvision": "mobilenet_v3_small", "timm": "resnet10t"}


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(file.stem for file in (CONF_DIR / "model").glob("*.yaml")))
def test_trains_two_steps_and_validates(model: str, tmp_path: Path) -> None:
    if model == "timm":
        pytest.importorskip("timm", reason="timm is not installed: uv sync --extra timm")
    arch = [f"model.arch={ARCHS[model]}"] if model in ARCHS else []
    config = compose([f"model={model}", "batch_size=4", "max_steps=2", "logger=none", *arch])
    with open_run_directory(config, tmp_path / "run") as run_dir:
        results = build_trainer(config, run_dir, torch.device("cpu")).fit()
    assert results["steps"] == 2
    assert 0 <= results["val_top1"] <= 100
