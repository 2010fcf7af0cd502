"""Settings that are known to fail are warnings with a reason and a switch, and no default run has one."""

import dataclasses
import functools
import logging
from typing import Any

import pytest
from torch import nn

from imgcls.config import Config, compose, fit_to_set, flatten, from_flat, has_open_size
from imgcls.environment import CONF_DIR
from imgcls.models import outline_model
from imgcls.training import risks_of
from imgcls.training.risks import log_risks

OF_OTHERS = ("timm", "torchvision")  # which need a name
MODELS = sorted({path.stem for path in (CONF_DIR / "model").glob("*.yaml")} - {*OF_OTHERS})
RECIPES = sorted(path.stem for path in (CONF_DIR / "recipe").glob("*.yaml"))
# Training images of each set: many, as many as the drawn sets have, and few.
SETS = {"imagenet": 1_281_167, "cifar10": 50_000, "mnist": 60_000, "shapes": 2_000, "digits": 5_000, "folder": 60}


@functools.cache
def network(model: str) -> nn.Module:
    return outline_model(base(model), num_classes=10)


@functools.cache
def base(model: str) -> Config:
    return fit_to_set(compose([f"model={model}", "data=folder"]), 1000)


def risks(config: Config, model: str, num_images: int) -> list[str]:
    config = fit_to_set(config, num_images) if has_open_size(config) else config
    return [risk.text for risk in risks_of(config, network(model), num_images=num_images)]


def names(model: str, changes: dict[str, Any]) -> list[str]:
    config = from_flat(flatten(base(model)) | {"lr_scaling": "none"} | changes)
    return [risk.name for risk in risks_of(config, network(model), num_images=1000)]


@pytest.mark.e2e
def test_no_model_and_no_recipe_has_a_warning_by_default() -> None:
    for model in MODELS:
        config = compose([f"model={model}"])
        assert risks(config, model, SETS[config.data.name]) == [], model
    for recipe in RECIPES:
        assert risks(compose([f"recipe={recipe}"]), "resnet18", SETS["shapes"]) == [], recipe


@pytest.mark.slow
@pytest.mark.parametrize("data", SETS)
def test_no_model_and_no_recipe_has_a_warning_on_any_set(data: str) -> None:
    for model in MODELS:
        assert risks(compose([f"model={model}", f"data={data}"]), model, SETS[data]) == [], model
    for recipe in RECIPES:
        config = compose([f"recipe={recipe}", f"data={data}"])
        assert risks(config, "resnet18", SETS[data]) == [], recipe


@pytest.mark.parametrize(
    "model, changes, name",
    [
        ("vgg16", {"optimizer.lr": 0.1}, "lr"),
        ("resnet18", {"optimizer._target_": "torch.optim.AdamW"}, "lr"),
        ("resnet18", {"weights": "x.pt"}, "weights_lr"),
        ("resnet18", {"optimizer.weight_decay": 0.05}, "weight_decay"),
        ("resnet18", {"epochs": 5}, "patience"),
        ("resnet18", {"class_weights": "balanced", "sampler": "balanced"}, "balanced_twice"),
        ("vgg16", {"schedule": {"_target_": "x"}, "epochs": 5, "early_stopping.patience_epochs": 5}, "patience"),
        ("resnet18", {"batch_size": 256}, "few_steps"),
        ("resnet18", {"microbatch": 2}, "batch_norm"),
        ("resnet18", {"batch_size": 4}, "batch_norm"),
        ("vgg16", {"augment.input": "standardised"}, "input"),
        ("resnet18", {"validate_every": 100, "epochs": 100}, "validate_every"),
    ],
)
def test_what_is_known_to_fail_is_named_and_silenced(model: str, changes: dict[str, Any], name: str) -> None:
    assert name in names(model, changes)
    assert name not in names(model, changes | {"silence": [name]})


@pytest.mark.parametrize(
    "model, changes",
    [
        ("lenet5", {"optimizer.lr": 0.1}),  # five layers learn at it
        ("vgg16_bn", {"optimizer.lr": 0.1}),
        ("vgg16", {"augment.input": "standardised", "weights": "x.pt"}),  # published weights are of such pixels
        ("resnet18", {"batch_size": 4, "freeze": "backbone", "weights": "x.pt", "optimizer.lr": 0.01}),
        ("resnet18", {"batch_size": 256, "data.memorise": 64}),
    ],
)
def test_what_learns_is_no_warning(model: str, changes: dict[str, Any]) -> None:
    assert names(model, changes) == []


def test_a_warning_has_the_setting_the_reason_and_the_switch(caplog: pytest.LogCaptureFixture) -> None:
    config = dataclasses.replace(base("resnet18"), batch_size=256, epochs=9)
    with caplog.at_level(logging.WARNING):
        log_risks(config, network("resnet18"), num_images=1000)
    (line,) = caplog.messages
    assert "batch_size=256 of 1,000 images makes an epoch of 3 steps, which leaves out 232 images: 27 steps" in line
    assert line.endswith("(silence=[few_steps] turns this off)")


def test_an_unknown_name_to_silence_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"silence=\[patienc\]: the warnings are lr, .* \(did you mean patience\?\)"):
        compose(["silence=[patienc]"])
    with pytest.raises(ValueError, match=r"silence=lr must be a list of warnings: silence=\[lr\]"):
        compose(["silence=lr"])
    assert compose(["silence=[lr,input]"]).silence == ["lr", "input"]
