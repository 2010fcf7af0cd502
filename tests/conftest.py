"""What several tests share: a tiny image folder, and a run built from the command line's own words."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls.config import Config, compose

# Tests run side by side, in processes that start others; a second thread would only take turns with them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 training and 5 validation JPEGs, 40 px or so, each of another colour."""
    root = tmp_path_factory.mktemp("tiny")
    draws = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 5)):
        for label, name in enumerate(("blue", "green", "red")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 128, (40 + number % 3, 44, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 60
                Image.fromarray(pixels).save(folder / f"{number:02}.JPEG", quality=90)
    return root


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("IMGCLS_CACHE", str(path))
    return path


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked gpu where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _no_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let precision=auto be fp32 whatever the CPU: with AMX a timing decides, and bfloat16 rounds."""
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)


@pytest.fixture(autouse=True)
def _quiet_root_logger() -> Iterator[None]:
    """Take back what a command that a test calls does to the root logger: its handlers write to a closed stream."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)


@pytest.fixture
def tiny_config(tiny_folder: Path) -> Callable[..., Config]:
    """Compose a run of LeNet-5 on the tiny folder: 5 steps of 12 images an epoch, 3 epochs."""

    def make(*overrides: str) -> Config:
        base = [
            "model=lenet5",
            "model.activation=relu",
            "model.pool=max",
            "optimizer.lr=0.02",
            "data=folder",
            f"data.root={tiny_folder}",
            "image_size=32",
            "batch_size=12",
            "epochs=3",
            "logger=none",
            "log_every_steps=2",
            "data.num_threads=2",
        ]
        if any(word.startswith("model=") for word in overrides):  # which has other settings
            base = [word for word in base if not word.startswith("model.")]
        words = {word.partition("=")[0]: word for word in [*base, *overrides]}  # Hydra takes a group once
        return compose(words.values())

    return make


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Train a config in a directory below tmp_path; `before` may add hooks to the trainer or change its parts."""
    import torch

    # Networks this small only lose by a second thread, and most of all on a busy machine.
    torch.set_num_threads(1)
    from imgcls.training import Trainer, build_trainer, open_run_directory

    def run(
        config: Config, name: str = "run", before: Callable[[Trainer], None] = lambda trainer: None, **parts: Any
    ) -> dict[str, Any]:
        with open_run_directory(config, tmp_path / name) as run_dir:
            trainer = build_trainer(config, run_dir, torch.device("cpu"), **parts)
            before(trainer)
            results = trainer.fit()
            run_dir.finish(results)
        return results | {"weights": {key: value.clone() for key, value in trainer.model.state_dict().items()}}

    return run
