"""The size of a run on a set of few images."""

import dataclasses

import pytest

from imgcls.config import brought_by_set, compose, fit_to_set, has_open_size
from imgcls.errors import ConfigError


@pytest.mark.parametrize(
    "num_images, batch_size, epochs, lr_scaling",
    [
        (1_281_167, 256, 120, "none"),  # ImageNet: the recipe
        (32 * 256, 256, 120, "none"),
        (32 * 256 - 1, 128, 48, "linear"),  # 63 steps an epoch
        (2_000, 32, 49, "linear"),
        (129, 8, 120, "linear"),
        (5, 5, 120, "linear"),  # fewer images than the smallest batch
    ],
)
def test_a_small_set_has_a_small_batch_and_some_three_thousand_steps(
    num_images: int, batch_size: int, epochs: int, lr_scaling: str
) -> None:
    fitted = fit_to_set(compose(["data=folder"]), num_images)
    assert (fitted.batch_size, fitted.epochs, fitted.lr_scaling) == (batch_size, epochs, lr_scaling)
    assert not has_open_size(fitted)


def test_what_the_user_sets_is_kept() -> None:
    fitted = fit_to_set(compose(["data=folder", "batch_size=64"]), 129)
    assert (fitted.batch_size, fitted.lr_scaling) == (64, "none")
    assert fit_to_set(compose(["data=folder", "epochs=3", "lr_scaling=linear"]), 129).lr_scaling == "linear"
    assert fit_to_set(compose(["data=folder", "epochs=3"]), 129).epochs == 3


@pytest.mark.parametrize(
    "model, lr_scaling", [("lenet5", "sqrt"), ("alexnet", "linear"), ("vgg16", "linear"), ("vgg11_bn", "linear")]
)
def test_a_small_set_scales_lr_by_the_rule_of_the_recipe_and_not_by_a_tiny_sets_number(
    model: str, lr_scaling: str
) -> None:
    assert fit_to_set(compose([f"model={model}", "data=folder"]), 129).lr_scaling == lr_scaling


def test_a_batch_is_a_multiple_of_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert fit_to_set(compose(["data=folder"]), 129).batch_size == 6


def test_a_microbatch_larger_than_the_chosen_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="microbatch=16 is larger than batch_size=8"):
        fit_to_set(compose(["data=folder", "microbatch=16"]), 129)


def test_a_tiny_set_brings_the_sizes_of_the_recipe_and_a_shorter_patience() -> None:
    assert compose(["model=vgg16"]).image_size == 32
    assert compose(["model=alexnet"]).image_size == 72
    vgg16 = compose(["model=vgg16"])
    assert (vgg16.schedule["patience_epochs"], vgg16.lr_scaling) == (1, 0.0625)
    assert compose(["model=resnet50"]).lr_scaling == "linear"
    assert compose(["model=alexnet"]).schedule["patience_epochs"] == 2
    assert compose(["model=vgg16_bn"]).lr_scaling == 0.03
    assert compose(["model=vgg16_bn", "data=imagenet"]).lr_scaling == "auto"
    assert compose(["model=vgg16", "data=imagenet"]).schedule["patience_epochs"] == 5
    gains = [compose([f"model={name}"]).schedule["min_gain"] for name in ("resnet152", "resnet101")]
    assert [*gains, compose(["model=resnet152", "data=imagenet"]).schedule["min_gain"]] == [9, 3, 0.1]
    assert compose(["model=vgg16", "schedule.patience_epochs=3"]).schedule["patience_epochs"] == 3


def test_the_sizes_that_a_set_brings_are_told_from_those_of_the_user() -> None:
    shapes = compose(["epochs=3"])
    assert brought_by_set(shapes, 2_000) == {"image_size": 48, "batch_size": 32}
    folder = fit_to_set(compose(["data=folder", "epochs=3"]), 129)
    assert brought_by_set(folder, 129) == {"batch_size": 8}
    assert brought_by_set(fit_to_set(compose(["data=imagenet"]), 1_281_167), 1_281_167) == {}
    assert brought_by_set(dataclasses.replace(folder, batch_size=16), 129) == {}
    microbatch = compose(["data=folder", "batch_size=64", "epochs=3", "microbatch=16"])
    assert brought_by_set(microbatch, 129) == {}  # 16 is more than the 8 that the set would bring, which no run has
