"""The test of weights from elsewhere: as they were published, or from a file."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from imgcls.checkpoints import load_checkpoint
from imgcls.config import EvaluateConfig
from imgcls.errors import ConfigError
from imgcls.evaluation import members, run_evaluation
from imgcls.inference import open_weights

from .helpers import CENTER, CPU, FOLDER, config_of, run


def test_published_weights_are_tested_as_published(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchvision.models.resnet18()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: theirs.state_dict())
    member = open_weights("torchvision", "resnet18", [])
    assert member.config.image_size == 224
    assert member.config.augment.eval_crop["short_side"] == 256
    assert member.classes is not None
    assert member.classes[1] == "n01443537"
    assert member.arch == "resnet18"
    ours: nn.Module = member.build(CPU)
    images = torch.randn(1, 3, 64, 64)
    assert torch.allclose(ours(images), theirs.eval()(images), atol=1e-5)
    config = EvaluateConfig(weights="torchvision", network="resnet18", protocol=CENTER)
    config.data.source = FOLDER
    config.data.root = str(tiny_folder)
    with pytest.raises(ValueError, match=r"knows 1000 classes .* has 3, 3 of them unknown"):
        run_evaluation(config, CPU)


def test_the_number_of_outputs_is_that_of_the_file(tiny_folder: Path, run_dir: Path, tmp_path: Path) -> None:
    torch.save(load_checkpoint(run_dir / "best.pt")["model"], tmp_path / "weights.pt")
    config = config_of(root=tiny_folder, weights=str(tmp_path / "weights.pt"), network="lenet5", out=str(tmp_path))
    config.overrides = ["model.activation=relu", "model.pool=max"]
    config.data.source, config.image_size = FOLDER, 32
    assert run(config)["num_images"] == 15


def test_a_remedy_is_in_the_words_of_evaluate() -> None:
    for network, words in (
        ("resnet50", r"add: overrides=\[model.stride_in_3x3=true\]"),
        ("alexnet", r"another network: network=torchvision overrides=\[model.arch=alexnet\]"),
    ):
        config = EvaluateConfig(weights="torchvision", network=network)
        with pytest.raises(ConfigError, match=words):
            members(config)[0]()


def test_results_of_different_weights_are_in_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: {"weight": torch.zeros(1)})
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        torch.save({"weight": torch.zeros(1)}, tmp_path / folder / "w.pt")
    homes = [
        open_weights(*words).home.name
        for words in (
            ("torchvision", "resnet50", ["model.stride_in_3x3=true"]),
            ("torchvision:IMAGENET1K_V2", "resnet50", ["model.stride_in_3x3=true"]),
            ("torchvision", "torchvision", ["model.arch=resnet50"]),
            ("torchvision", "torchvision", ["model.arch=alexnet"]),
            ("a/w.pt", "lenet5", []),
            ("b/w.pt", "lenet5", []),
        )
    ]
    assert homes[:2] == ["resnet50-IMAGENET1K_V1", "resnet50-IMAGENET1K_V2"]
    assert len({*homes}) == 5
    assert homes[2] == homes[0]  # the same network
    assert homes[4].startswith("lenet5-w-")
