"""Runs that begin with pretrained weights, and tests of these, show images as their publishers did."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imgcls.checkpoints import load_checkpoint
from imgcls.config import ImageSize, compose, compose_network, compose_run
from imgcls.inference import open_weights
from imgcls.library import run_training
from imgcls.models import PretrainedInput, outline_model, pretrained_input, take_input

B3 = "x/efficientnet_b3_rwightman-b3899882.pth"
CENTER = "imgcls.data.augment.CenterCrop"


def expected(*words: str, for_test: bool = False) -> PretrainedInput | None:
    config = compose(["data=folder", *words])
    return pretrained_input(config, outline_model(config, num_classes=3), for_test=for_test)


@pytest.mark.parametrize(
    "words, size, short_side, interpolation",
    [
        (["model=resnet18", "weights=torchvision"], 224, 256, "bilinear"),
        (["model=resnet50", "model.stride_in_3x3=true", "weights=torchvision:IMAGENET1K_V2"], 224, 232, "bilinear"),
        (["model=torchvision", "model.arch=swin_t", "model.weights=DEFAULT"], 224, 232, "bicubic"),
        (
            ["model=torchvision", "model.arch=efficientnet_b3", f"weights={B3}"],
            300,
            320,
            "bicubic",
        ),
        (["model=resnet18", "weights=http://a.org/resnet18-f37072fd.pth"], 224, 256, "bilinear"),
    ],
)
def test_torchvisions_weights_are_known_by_name_and_by_file(
    words: list[str], size: int, short_side: int, interpolation: str
) -> None:
    found = expected(*words)
    assert found is not None
    assert (*found.image_size, found.short_side, found.interpolation) == (size, size, short_side, interpolation)
    assert found.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("words", [["weights=x/mine.pth"], [], ["model=torchvision", "model.arch=resnet18"]])
def test_of_other_weights_nothing_is_known(words: list[str]) -> None:
    assert expected("model=resnet18", *words) is None


@pytest.mark.e2e
def test_timms_networks_bring_their_own_sizes_for_training_and_tests() -> None:
    words = ["model=timm", "model.arch=resnet50.a1_in1k"]
    assert expected(*words) is None
    trained = expected(*words, "model.pretrained=true")
    tested = expected(*words, "model.pretrained=true", for_test=True)
    assert trained is not None
    assert tested is not None
    assert (trained.image_size.height, trained.short_side) == (224, 235)
    assert (tested.image_size.height, tested.short_side) == (288, 288)
    vit = expected("model=timm", "model.arch=vit_tiny_patch16_224", "model.pretrained=true", for_test=True)
    assert vit is not None
    assert (vit.mean, vit.interpolation, vit.short_side) == ((0.5, 0.5, 0.5), "bicubic", 248)


def test_what_the_command_line_sets_stays_and_so_does_the_size_of_a_tiny_set() -> None:
    brought = PretrainedInput("w", ImageSize.of(96), 100, (0.5, 0.4, 0.3), (0.2,), "bicubic")
    config, changes = take_input(compose(["model=resnet18", "data=folder", "data.mean=[0.1,0.1,0.1]"]), brought)
    assert config.data.mean == [0.1, 0.1, 0.1]
    assert (config.image_size, config.data.std, config.augment.interpolation_of_test) == (96, [0.2], "bicubic")
    assert config.augment.eval_crop == {"_target_": CENTER, "short_side": 100, "at_image_size": 96}
    assert changes["augment.interpolation"] == ["bilinear", "bicubic"]
    assert changes.keys() == {"image_size", "data.std", "augment.interpolation", "augment.eval_crop"}

    words = ["model=resnet18", "data=mnist", "augment.eval_crop=whole", "augment.interpolation=bilinear"]
    config, changes = take_input(compose(words), brought)
    assert config.image_size == 32
    assert (config.data.mean, config.data.std) == ([0.4], [0.2])  # of gray images: the mean over the colours
    assert changes.keys() == {"data.mean", "data.std"}
    assert take_input(config, brought)[1] == {}


def test_what_an_experiment_sets_stays(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\ndata:\n  std: [0.3]\nimage_size: 64\n")
    brought = PretrainedInput("w", ImageSize.of(96), 100, (0.5,), (0.2,), "bicubic")
    words = ["model=resnet18", "data=folder", "augment.eval_crop=whole", "experiment=mine"]
    config, changes = take_input(compose_run(words, tmp_path)[0], brought)
    assert (config.image_size, config.data.std) == (64, [0.3])
    assert changes.keys() == {"data.mean", "augment.interpolation"}


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the smallest of timm's networks with an input that differs from ours, saved as timm saves them."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network: nn.Module = timm.create_model("test_vit.r160_in1k", num_classes=4)
    file = tmp_path_factory.mktemp("timm") / "vit.pth"
    torch.save({"state_dict": network.state_dict(), "arch": "test_vit"}, file)
    return file


def test_a_file_of_timms_network_is_tested_with_its_input(timm_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    words = ["model=timm", "model.arch=test_vit.r160_in1k"]
    member = open_weights(str(timm_file), compose_network(words))
    assert caplog.records[0].getMessage() == (
        "input    of timm's test_vit.r160_in1k: image_size=160, data.mean=[0.5,0.5,0.5], data.std=[0.5,0.5,0.5], "
        "augment.interpolation=bicubic, augment.eval_crop=CenterCrop of 160 px from 168"
    )
    assert (member.config.image_size, member.interpolation) == (160, "bicubic")
    smaller = open_weights(str(timm_file), compose_network([*words, "+model.img_size=96"]))
    assert (smaller.config.image_size, smaller.config.augment.eval_crop["at_image_size"]) == (96, 160)
    given = open_weights(str(timm_file), compose_network([*words, "augment.interpolation=bilinear"]))
    assert given.interpolation == "bilinear"
    assert given.config.data.mean == [0.5, 0.5, 0.5]


@pytest.mark.e2e
def test_a_run_keeps_the_input_of_its_weights_when_it_goes_on(
    timm_file: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(timm_file, "vit.pth")
    words = [
        *("model=timm", "model.arch=test_vit.r160_in1k", "data=folder", f"data.root={tiny_folder}", "augment=none"),
        *("weights=vit.pth", "batch_size=8", "epochs=1", "name=x", "data.num_threads=1"),
    ]

    def run(*more: str) -> dict[str, Any]:
        caplog.clear()
        caplog.set_level("INFO")
        config, path = compose_run([*words, "schedule=constant", *more])
        return run_training(config, path)

    run("max_steps=1")
    assert "input    of timm's test_vit.r160_in1k: image_size=160, " in caplog.text
    (best,) = tmp_path.glob("runs/*/x/best.pt")
    saved = load_checkpoint(best)["config"]
    assert (saved["image_size"], saved["data.mean"], saved["augment.interpolation"]) == (160, [0.5] * 3, "bicubic")
    Path("vit.pth").unlink()
    run("max_steps=1")
    assert "this run has finished" in caplog.text
    assert "input" not in caplog.text
    run("max_steps=2", "continue_run=true")
    with pytest.raises(ValueError, match=r"holds a run of another config \(image_size: 160 there, 96 now\)"):
        run("max_steps=2", "image_size=96")
