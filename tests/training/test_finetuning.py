"""Fine-tuning: what is frozen stays and begins to learn when it should, and each layer has the lr that it is given."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from imgcls.checkpoints import load_checkpoint, save_checkpoint
from imgcls.config import Config, compose, consequential
from imgcls.errors import ConfigError
from imgcls.models import build_model
from imgcls.runs import Interrupted
from imgcls.training import Trainer, build_optimizer
from imgcls.training.groups import layer_depths, lr_factors

from .helpers import Train, differences, same, stop_at_step

Make = Callable[..., Config]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("start") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


@pytest.fixture
def resnet(tiny_folder: Path, start: Path) -> Make:
    """Compose a run of ResNet-18 from given weights: 5 steps of 12 images an epoch."""
    words = ["model=resnet18", "data=folder", f"data.root={tiny_folder}", "image_size=32", "batch_size=12", "epochs=1"]
    words += ["logger=none", "data.num_threads=1", f"weights={start}", "optimizer.lr=0.01"]
    return lambda *more: compose([*words, *more])


def moved(config: Config, after: dict[str, torch.Tensor]) -> set[str]:
    """Return the layers, statistics included, whose values are no longer those that the run began with."""
    before = build_model(config, num_classes=3).state_dict()
    return {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


def test_frozen_layers_and_their_statistics_stay_and_the_others_learn(resnet: Make, train: Train) -> None:
    config = resnet("freeze=[conv1,bn1,layer1,layer2.0]", "max_steps=2")
    after = train(config)["weights"]
    assert moved(config, after) == {"layer2", "layer3", "layer4", "fc"}
    before = build_model(config, num_classes=3).state_dict()
    of_layer2 = {name for name in before if name.startswith("layer2") and not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in of_layer2} == {"1"}


def test_frozen_layers_learn_from_their_epoch_on(resnet: Make, train: Train) -> None:
    words = ("freeze=[conv1,bn1,layer1]", "unfreeze_after_epochs=1")
    frozen = train(resnet(*words), "frozen")["weights"]
    assert moved(resnet(), frozen) == {"layer2", "layer3", "layer4", "fc"}
    assert "conv1" in moved(resnet(), train(resnet(*words, "epochs=2"), "longer")["weights"])


@pytest.mark.parametrize("step", [7, pytest.param(3, marks=pytest.mark.e2e), pytest.param(5, marks=pytest.mark.e2e)])
def test_a_run_that_unfreezes_is_resumed_to_the_bit(step: int, resnet: Make, train: Train, tmp_path: Path) -> None:
    config = resnet("recipe=finetune", "epochs=2", "layer_lr_decay=0.8", "ema_decay=0.9", "batch_size=12")
    whole = train(config, "whole")
    with pytest.raises(Interrupted):
        train(config, "cut", stop_at_step(step))
    assert same(train(config, "cut")["weights"], whole["weights"])
    assert differences(tmp_path / "whole", tmp_path / "cut") == []


def test_what_is_frozen_may_change_where_a_run_goes_on(resnet: Make, train: Train) -> None:
    frozen = train(resnet("freeze=backbone"))["weights"]
    assert moved(resnet(), frozen) == {"fc"}
    longer = resnet("epochs=2", "continue_run=true", "lr_factors={conv1: 0.1}")
    assert moved(resnet(), train(longer)["weights"]) >= {"conv1", "bn1", "layer4"}


def test_a_rollback_into_the_frozen_epochs_freezes_again(resnet: Make, train: Train) -> None:
    seen: list[tuple[int, bool]] = []

    def prepare(trainer: Trainer) -> None:
        def ruin(trainer: Trainer) -> None:
            if trainer.state.step == 7 and not trainer.state.rollbacks:
                trainer.state.epoch = 0  # as if the checkpoint of epoch 1 was gone
                for parameter in trainer.model.parameters():
                    parameter.data.fill_(float("nan"))
            seen.append((trainer.state.epoch, trainer.model.get_parameter("conv1.weight").requires_grad))

        trainer.before_step.append(ruin)

    words = ("freeze=[conv1]", "unfreeze_after_epochs=1", "on_divergence=rollback", "checkpoint.keep=5", "epochs=2")
    train(resnet(*words), before=prepare)
    # The ruined step itself was of an epoch in which all layers learn.
    assert seen[:8] == [(0, False)] * 5 + [(1, True)] * 2 + [(0, True)]
    assert (0, False) in seen[10:]
    assert seen[-5:] == [(1, True)] * 5


@pytest.mark.parametrize(
    "override, words",
    [
        (
            "freeze=[layr1]",
            r"freeze=\[layr1\]: the network has no layer layr1 \(did you mean layer1\?\); its layers are conv1",
        ),
        ("freeze=[conv1,bn1,layer1,layer2,layer3,layer4,fc]", "leaves nothing that learns"),
        ("lr_factors={head: 2}", "lr_factors: the network has no layer head"),
    ],
)
def test_layers_that_are_not_there_are_refused_before_training(
    override: str, words: str, resnet: Make, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        train(resnet(override))
    assert not (tmp_path / "run").exists()


def lrs(config: Config) -> dict[str, float]:
    """Return the first lr of each parameter, as a part of the optimizer's."""
    network = build_model(config, num_classes=3, with_weights=False)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = build_optimizer(config, network).param_groups
    found = {names[id(each)]: group["lr"] / config.optimizer["lr"] for group in groups for each in group["params"]}
    assert found.keys() == set(names.values())
    return found


def test_lr_falls_with_the_depth_of_the_block(resnet: Make) -> None:
    found = lrs(resnet("layer_lr_decay=0.5"))
    assert found["fc.bias"] == 1
    assert found["layer4.1.conv2.weight"] == found["layer4.1.bn1.weight"] == 0.5
    assert found["layer4.0.downsample.0.weight"] == 0.25
    assert found["conv1.weight"] == found["bn1.weight"] == pytest.approx(0.5**9)


def test_factors_of_layers_depths_and_the_last_layer_multiply_and_the_longest_name_counts(resnet: Make) -> None:
    found = lrs(resnet("lr_factors={layer4: 0.1, layer4.1: 0.3}", "head_lr_factor=10", "layer_lr_decay=0.5"))
    assert found["fc.weight"] == pytest.approx(10)
    assert found["layer4.1.conv1.weight"] == pytest.approx(0.3 * 0.5)
    assert found["layer4.0.conv1.weight"] == pytest.approx(0.1 * 0.25)
    config = resnet("lr_factors={layer4.1: 0.3}")
    assert consequential(config)["lr_factors.layer4.1"] == 0.3


def test_the_logged_lr_is_the_optimizers_own(resnet: Make) -> None:
    for words in ("layer_lr_decay=0.5", "head_lr_factor=10", "lr_factors={conv1: 3}"):
        config = resnet(words)
        network = build_model(config, num_classes=3, with_weights=False)
        assert build_optimizer(config, network).param_groups[0]["lr"] == pytest.approx(config.optimizer["lr"])


@pytest.mark.parametrize(
    "arch, num_blocks, first, inside",
    [
        (
            "vit_b_32",
            14,
            ["class_token", "encoder.pos_embedding", "conv_proj.weight"],
            {"encoder.layers.encoder_layer_11": 1},
        ),
        ("vgg11", 11, ["features.0.weight"], {"classifier.0": 2}),
        ("convnext_tiny", 23, ["features.0.0.weight"], {}),
        ("efficientnet_b0", 19, ["features.0.0.weight"], {}),
        ("googlenet", 13, ["conv1.conv.weight"], {}),
    ],
)
def test_blocks_are_those_of_the_architecture(
    arch: str, num_blocks: int, first: list[str], inside: dict[str, int]
) -> None:
    with torch.device("meta"):
        options: dict[str, Any] = {"init_weights": False, "aux_logits": False} if arch == "googlenet" else {}
        network: nn.Module = torchvision.models.get_model(arch, **options)
    depths = layer_depths(network)
    assert len(set(depths.values())) == num_blocks
    assert {depths[name] for name in first} == {num_blocks - 1}
    assert min(depths.values()) == 0
    for layer, depth in inside.items():
        assert {value for name, value in depths.items() if name.startswith(f"{layer}.")} == {depth}


def test_without_settings_every_factor_is_one_and_the_groups_are_as_they_were(resnet: Make) -> None:
    config = resnet()
    network = build_model(config, num_classes=3, with_weights=False)
    assert set(lr_factors(config, network).values()) == {1.0}
    (group,) = build_optimizer(config, network).param_groups
    assert len(group["params"]) == len(list(network.parameters()))


def test_a_run_of_an_earlier_release_that_trained_the_head_first_is_understood(
    resnet: Make, train: Train, tmp_path: Path
) -> None:
    from imgcls.inference import open_checkpoint

    config = resnet("freeze=backbone", "unfreeze_after_epochs=1", "epochs=2", "head_lr_factor=10")
    whole = train(config, "whole")
    with pytest.raises(Interrupted):
        train(config, before=stop_at_step(7))
    file = tmp_path / "run/last.pt"
    saved = load_checkpoint(file)
    for key in ("freeze", "unfreeze_after_epochs"):
        del saved["config"][key]
    saved["config"]["head_only_epochs"] = 1.0
    del saved["state"]["validated_step"]
    saved["optimizer"]["param_groups"][-1]["is_head"] = True
    save_checkpoint(saved, file)
    member = open_checkpoint(file)
    assert (member.config.freeze, member.config.unfreeze_after_epochs) == ("backbone", 1)
    assert same(train(config)["weights"], whole["weights"])
    assert math.isfinite(whole["val_loss"])
