"""What the tests of evaluation share: the config of a test on the tiny folder, and running it in this process."""

from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls.config import EvaluateConfig
from imgcls.evaluation import run_evaluation
from imgcls.inference import Predictions, predict_split

CPU = torch.device("cpu")
CENTER = {"_target_": "imgcls.inference.Center"}
FOLDER = {"_target_": "imgcls.data.sets.open_folder"}


def config_of(*checkpoints: Path, protocol: dict[str, Any] = CENTER, root: Path, **more: Any) -> EvaluateConfig:
    """The test of checkpoints on the validation images in `root`, without a logger."""
    config = EvaluateConfig(checkpoint=[str(path) for path in checkpoints], protocol=protocol, device="cpu", **more)
    config.data.root = str(root)
    config.data.num_threads = 1
    return config


def run(config: EvaluateConfig, **parts: Any) -> dict[str, Any]:
    results = run_evaluation(config, CPU, **parts)
    assert results is not None
    return results


def forbidden(*args: Any) -> Predictions | None:
    """In place of a prediction that must not happen."""
    pytest.fail("the network was run")


class CountedPredictions:
    """Predict as always, and count how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *args: Any) -> Predictions | None:
        self.count += 1
        return predict_split(*args)
