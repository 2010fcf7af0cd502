"""From config to objects: what is built is what was asked for."""

from collections.abc import Callable

import pytest
import torch
import yaml
from torch import nn

from imgcls.config import Config, build_component, compose
from imgcls.config.plugs import CROPS
from imgcls.config.settings import select
from imgcls.data.on_device import input_statistics
from imgcls.device import autocast_dtype
from imgcls.errors import ConfigError
from imgcls.models import build_model
from imgcls.training import build_optimizer, build_schedule

CPU = torch.device("cpu")


def test_lr_scales_with_the_batch_only_when_asked() -> None:
    network = nn.Linear(2, 2)
    plain = compose(["data=folder", "batch_size=64"])
    scaled = compose(["data=folder", "batch_size=64", "lr_scaling=linear"])
    assert build_optimizer(plain, network).param_groups[0]["lr"] == 0.1
    assert build_optimizer(scaled, network).param_groups[0]["lr"] == pytest.approx(0.1 * 64 / 256)
    by_number = compose(["data=folder", "batch_size=64", "lr_scaling=0.03"])
    assert build_optimizer(by_number, network).param_groups[0]["lr"] == pytest.approx(0.1 * 0.03)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    own = compose(["recipe=modern", "data=folder", "epochs=6", "schedule.warmup_epochs=3"])
    assert build_schedule(own).factor(1.5, epochs=6) == 0.5
    own.schedule["warmup_epochs"] = 6
    with pytest.raises(ConfigError, match=r"schedule.warmup_epochs=6 takes all of epochs=6; use a tenth of it"):
        build_schedule(own)


def test_a_tiny_set_scales_lr_and_the_first_lines_say_so(
    tiny_config: Callable[..., Config], train: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(tiny_config("lr_scaling=linear", "max_steps=1"))
    assert "lr 0.001875" in caplog.text
    assert "lr 0.02 at batch 128, lr_scaling=linear; none keeps it" in caplog.text
    caplog.clear()
    train(tiny_config("max_steps=1"), "plain")
    assert "scale " not in caplog.text


def test_alexnet_takes_raw_pixels_less_their_mean() -> None:
    statistics = input_statistics(compose(["model=alexnet"]))
    assert statistics["std"] == [1 / 255] * 3
    assert input_statistics(compose(["model=resnet18"]))["std"] == [0.21, 0.21, 0.21]


def test_precision_auto_is_plain_on_a_cpu_without_amx_and_fp16_is_refused_there() -> None:
    assert autocast_dtype("auto", CPU, (224, 224)) is None
    assert autocast_dtype("bf16", CPU, (224, 224)) is torch.bfloat16
    with pytest.raises(ConfigError, match="precision=fp16 needs a CUDA or Intel GPU, and the device here is cpu"):
        autocast_dtype("fp16", CPU, (224, 224))


def test_initial_weights_are_the_seeds() -> None:
    config, other = compose(["model=lenet5"]), compose(["model=lenet5", "seed=1"])
    one, two, three = (build_model(c, num_classes=10) for c in (config, config, other))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_a_network_takes_the_datas_classes_and_channels() -> None:
    network = build_model(compose(["model=resnet18", "data=mnist"]), num_classes=7)
    assert isinstance(network.conv1, nn.Conv2d)
    assert network.conv1.in_channels == 1
    assert isinstance(network.fc, nn.Linear)
    assert network.fc.out_features == 7


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["model.num_classes=5"], "model.num_classes=5, but the data has 10"),
        (["model.in_channels=1"], "model.in_channels=1, but data.channels=3"),
        (["model=alexnet", "image_size=60"], "image_size=60 is too small for AlexNet; use image_size=67"),
        (["model=alexnet", "model.groups=3"], "groups=3"),
        (["model=vgg16", "model.column=F"], "column=F"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model(compose(overrides), num_classes=10)


@pytest.mark.parametrize(
    "key, settings, words",
    [
        ("optimizer", "SGD lr=abc", "optimizer.lr=abc: torch.optim.SGD takes a number (float) there"),
        ("optimizer", "SGD lr=null", "optimizer.lr=null: torch.optim.SGD takes a number (float)"),
        ("optimizer", "SGD lr=true", "optimizer.lr=true: torch.optim.SGD takes a number (float)"),
        ("optimizer", "SGD lr=.nan", "optimizer.lr=nan must be finite"),
        ("optimizer", "SGD nesterov=yess", "optimizer.nesterov=yess: torch.optim.SGD takes true or false (bool)"),
        ("optimizer", "AdamW betas=0.9", "optimizer.betas=0.9: torch.optim.AdamW takes a list of 2, each a number"),
        ("optimizer", "AdamW betas=[0.9]", "optimizer.betas=[0.9]: torch.optim.AdamW takes a list of 2"),
        ("optimizer", "AdamW betas=[0.9,.inf]", "optimizer.betas=[0.9, inf] must be finite"),
        ("optimizer", "Adafactor eps=[a,1]", "takes a list of 2: a number (float) or null, a number (float)"),
        ("optimizer", "AdamW fused=3", "optimizer.fused=3: torch.optim.AdamW takes true or false (bool) or null"),
        ("schedule", "Step factor=abc every_epochs=3", "schedule.factor=abc: imgcls.training.Step takes a number"),
        ("schedule", "Step factor=0.1", "schedule.every_epochs has no value, and imgcls.training.Step needs one"),
        ("schedule", "Cosine final_factor=abc", "schedule.final_factor=abc: imgcls.training.Cosine takes a number"),
        (
            "schedule",
            "Constant warmup_epochs=null",
            "schedule.warmup_epochs=null: imgcls.training.Constant takes a number",
        ),
        (
            "augment.crop",
            "ScaleJitterCrop short_side=[1.5,2]",
            "short_side=[1.5, 2]: imgcls.data.augment.ScaleJitterCrop",
        ),
        ("augment.crop", "ScaleJitterCrop short_side=9", "takes a list, each a whole number (int) there"),
        (
            "protocol",
            "TenCrop short_side=x",
            "protocol.short_side=x: imgcls.inference.TenCrop takes a whole number (int) or",
        ),
        (
            "data.source",
            "open_folder train=2012",
            "data.source.train=2012: imgcls.data.sets.open_folder takes text (str; quote a",
        ),
        (
            "model",
            "torchvision_model arch=null",
            "model.arch=null: imgcls.models.torchvision_model takes text",
        ),
    ],
)
def test_a_setting_of_the_wrong_type_is_refused_before_the_call(key: str, settings: str, words: str) -> None:
    name, *pairs = settings.split()
    home = {
        "optimizer": "torch.optim",
        "schedule": "imgcls.training",
        "augment.crop": "imgcls.data.augment",
        "protocol": "imgcls.inference",
        "data.source": "imgcls.data.sets",
        "model": "imgcls.models",
    }[key]
    node = {"_target_": f"{home}.{name}"} | {
        pair.partition("=")[0]: yaml.safe_load(pair.partition("=")[2]) for pair in pairs
    }
    arguments = [[{"params": [nn.Parameter(torch.ones(1))]}]] if key == "optimizer" else []
    with pytest.raises(ConfigError) as error:
        build_component(key, node, *arguments)
    assert words in str(error.value)


def test_modern_spares_norms_and_biases_from_decay() -> None:
    config = compose(["recipe=modern"])
    groups = build_optimizer(config, build_model(config, num_classes=10)).param_groups
    assert [group["weight_decay"] for group in groups] == [5e-5, 0.0]


@pytest.mark.parametrize("name", CROPS)
def test_a_crop_is_swapped_by_one_word_without_the_settings_of_the_one_before(name):
    config = compose([f"augment.eval_crop={name}", f"augment.crop={name}"])
    for key in ("augment.crop", "augment.eval_crop"):
        node = select(config, key)
        assert node == {"_target_": f"imgcls.data.augment.{CROPS[name]}"}
        assert type(build_component(key, node)).__name__ == CROPS[name]


def test_a_crop_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"augment\.eval_crop=leterbox: .* \(did you mean letterbox\?\); one of"):
        compose(["augment.eval_crop=leterbox"])


WORDS = [
    "augment.eval_crop=center",
    "augment.eval_crop.short_side=240",
    "augment.crop=random_resized",
    "augment.crop.area=[0.2,1]",
]


@pytest.mark.parametrize(
    "words", [WORDS, WORDS[::-1], ["augment=cifar", *WORDS], ["experiment=smoke", *WORDS[1:], WORDS[0]]]
)
def test_the_settings_of_a_crop_stand_beside_the_word_that_swaps_it_in_any_order(words):
    augment = compose(words).augment
    assert augment.eval_crop == {"_target_": "imgcls.data.augment.CenterCrop", "short_side": 240}
    assert augment.crop == {"_target_": "imgcls.data.augment.RandomResizedCrop", "area": [0.2, 1]}


def test_a_crop_swapped_by_its_class_has_none_of_the_settings_before():
    config = compose(["augment.eval_crop._target_=imgcls.data.augment.Whole"])
    assert config.augment.eval_crop == {"_target_": "imgcls.data.augment.Whole"}
    config = compose(["augment.crop.padding=3", "augment.crop._target_=imgcls.data.augment.PadCrop"])
    assert config.augment.crop == {"_target_": "imgcls.data.augment.PadCrop", "padding": 3}


def test_a_setting_that_the_crop_of_a_word_does_not_take_is_named_with_the_nearest():
    node = compose(["augment.eval_crop=center", "augment.eval_crop.shrt_side=240"]).augment.eval_crop
    with pytest.raises(ConfigError, match=r"eval_crop\.shrt_side=240: .*takes no shrt_side \(did you mean short_side"):
        build_component("augment.eval_crop", node)
    with pytest.raises(ConfigError, match=r"augment\.eval_crop\.shrt_side: there is no such key"):
        compose(["augment.eval_crop.shrt_side=240"])


def test_settings_left_over_from_another_crop_name_the_way_to_swap_it():
    node = {"_target_": "imgcls.data.augment.Whole", "short_side": 256}  # as a file of configs merges it
    with pytest.raises(ConfigError, match=r"Whole takes no .*; it takes no settings; .*: augment\.eval_crop=center"):
        build_component("augment.eval_crop", node)


@pytest.mark.parametrize(
    "words, key, value",
    [
        (["schedule=cosine", "schedule.warmup_epochs=2"], "schedule.warmup_epochs", 2),
        (["optimizer=adamw", "optimizer.weight_decay=0.1"], "optimizer.weight_decay", 0.1),
        (["logger=[wandb,tensorboard]", "logger.wandb.project=x"], "logger.wandb.project", "x"),
        (["model=vgg16", "model.dropout=0.2"], "model.dropout", 0.2),
        (["data=folder", "data.root=x", "data.source.train=training"], "data.source.train", "training"),
        (["augment.policy=augmix", "augment.policy_ops=2"], "augment.policy_ops", 2),
    ],
)
def test_every_plug_goes_with_its_settings_in_one_command_in_any_order(words, key, value):
    for order in (words, words[::-1]):
        part, *rest = key.split(".")
        found = getattr(compose(order), part)
        for name in rest:
            found = found[name] if isinstance(found, dict) else getattr(found, name)
        assert found == value
