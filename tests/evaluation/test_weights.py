"""The test of weights from elsewhere: as they were published, or from a file."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from imgcls.checkpoints import load_checkpoint
from imgcls.config import EvaluateConfig, compose_network
from imgcls.evaluation import members, run_evaluation
from imgcls.inference import open_weights

from .helpers import CENTER, CPU, FOLDER, config_of, run


def test_published_weights_are_tested_as_published(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchvision.models.resnet18()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: theirs.state_dict())
    member = open_weights("torchvision", compose_network(["model=resnet18"]))
    assert member.config.image_size == 224
    assert member.config.augment.eval_crop["short_side"] == 256
    assert member.classes is not None
    assert member.classes[1] == "n01443537"
    assert member.arch == "resnet18"
    ours: nn.Module = member.build(CPU)
    images = torch.randn(1, 3, 64, 64)
    assert torch.allclose(ours(images), theirs.eval()(images), atol=1e-5)
    config = EvaluateConfig(weights="torchvision", network=compose_network(["model=resnet18"]), protocol=CENTER)
    config.data.source = FOLDER
    config.data.root = str(tiny_folder)
    with pytest.raises(ValueError, match=r"knows 1000 classes .* has 3, 3 of them unknown"):
        run_evaluation(config, CPU)


def test_the_number_of_outputs_is_that_of_the_file(tiny_folder: Path, run_dir: Path, tmp_path: Path) -> None:
    torch.save(load_checkpoint(run_dir / "best.pt")["model"], tmp_path / "weights.pt")
    config = config_of(root=tiny_folder, weights=str(tmp_path / "weights.pt"), out=str(tmp_path))
    config.network = compose_network(["model=lenet5", "model.activation=relu", "model.pool=max"])
    config.data.source, config.image_size = FOLDER, 32
    assert run(config)["num_images"] == 15


@pytest.mark.parametrize(
    "model, remedy",
    [
        ("resnet50", "add: model.stride_in_3x3=true"),
        ("alexnet", "another network: model=torchvision model.arch=alexnet"),
    ],
)
def test_a_network_without_published_weights_is_refused_with_the_words_to_use(model: str, remedy: str) -> None:
    config = EvaluateConfig(weights="torchvision", network=compose_network([f"model={model}"]))
    with pytest.raises(ValueError, match=remedy):
        members(config)[0]()


def test_results_of_different_weights_are_in_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: {"weight": torch.zeros(1)})
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        torch.save({"weight": torch.zeros(1)}, tmp_path / folder / "w.pt")
    homes = [
        open_weights(weights, compose_network(words)).home.name
        for weights, *words in (
            ("torchvision", "model=resnet50", "model.stride_in_3x3=true"),
            ("torchvision:IMAGENET1K_V2", "model=resnet50", "model.stride_in_3x3=true"),
            ("torchvision", "model=torchvision", "model.arch=resnet50"),
            ("torchvision", "model=torchvision", "model.arch=alexnet"),
            ("a/w.pt", "model=lenet5"),
            ("b/w.pt", "model=lenet5"),
        )
    ]
    assert homes[:2] == ["resnet50-IMAGENET1K_V1", "resnet50-IMAGENET1K_V2"]
    assert len({*homes}) == 5
    assert homes[2] == homes[0]  # the same network
    assert homes[4].startswith("lenet5-w-")
