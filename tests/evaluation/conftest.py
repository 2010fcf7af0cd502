"""Two short runs of LeNet-5 on the tiny folder, from different seeds, trained once for all tests of evaluation."""

from pathlib import Path

import pytest
import torch

from imgcls.config import compose
from imgcls.training import build_trainer, open_run_directory


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return _train(tmp_path_factory.mktemp("run"), tiny_folder)


@pytest.fixture(scope="session")
def other_run_dir(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return _train(tmp_path_factory.mktemp("other"), tiny_folder, "seed=1")


def _train(path: Path, folder: Path, *overrides: str) -> Path:
    torch.set_num_threads(1)
    words = ["model=lenet5", "model.activation=relu", "model.pool=max", "optimizer.lr=0.02", "data=folder"]
    words += [f"data.root={folder}", "image_size=32", "batch_size=12", "epochs=2", "logger=none"]
    config = compose([*words, "data.num_threads=1", *overrides])
    with open_run_directory(config, path) as run_directory:
        run_directory.finish(build_trainer(config, run_directory, torch.device("cpu")).fit())
    return path
