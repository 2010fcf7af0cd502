"""The config: every choice composes, every mistake is one line with the way out."""

import re
from pathlib import Path

import pytest

from imgcls.config import DataConfig, compose, consequential, data_of_test, flatten
from imgcls.config.identity import INCIDENTAL, images_name, keys_not_in_run_name, run_name
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


@pytest.mark.e2e
@pytest.mark.parametrize("group", ["model", "data", "augment", "optimizer", "schedule", "recipe", "experiment"])
def test_every_choice_of_a_group_composes(group: str) -> None:
    names = choices(group)
    assert names
    for name in names:
        extra = ["model.arch=some"] if name in ("torchvision", "timm") else []
        compose([f"{group}={name}", *extra])


@pytest.mark.parametrize(
    "model, recipe, lr, weight_decay, batch_size, image_size, crop",
    [
        ("lenet5", "lenet", 0.05, 1e-4, 128, 32, None),
        ("alexnet", "alexnet", 0.01, 5e-4, 128, 227, None),
        ("vgg16", "vgg", 0.01, 5e-4, 256, 224, [256, 512]),
        ("googlenet", "googlenet", 0.01, 2e-4, 256, 224, None),
        ("resnet50", "resnet", 0.1, 1e-5, 256, 224, [256, 480]),
    ],
)
def test_a_model_brings_the_recipe_of_its_paper(
    model: str, recipe: str, lr: float, weight_decay: float, batch_size: int, image_size: int, crop: list[int] | None
) -> None:
    composed = compose([f"model={model}", "data=imagenet", "data.root=there"])
    assert composed.recipe.name == recipe
    assert (composed.optimizer["lr"], composed.optimizer["momentum"]) == (lr, 0.9)
    assert composed.optimizer["weight_decay"] == weight_decay
    assert (composed.recipe.batch_size, composed.image_size) == (batch_size, image_size)
    if crop:
        assert composed.augment.crop["short_side"] == crop


def test_a_recipe_on_the_command_line_wins_over_the_models() -> None:
    composed = compose(["model=vgg16", "recipe=resnet_paper"])
    assert composed.recipe.name == "resnet_paper"
    assert (composed.optimizer["lr"], composed.optimizer["weight_decay"]) == (0.1, 1e-4)


def test_one_part_of_a_recipe_can_be_swapped() -> None:
    composed = compose(["model=vgg16", "optimizer=adamw", "schedule=cosine"])
    assert composed.optimizer["_target_"] == "torch.optim.AdamW"
    assert "momentum" not in composed.optimizer
    assert composed.schedule["_target_"] == "imgcls.training.Cosine"
    assert composed.recipe.name == "vgg"


def test_the_plateau_recipes_divide_lr_by_ten() -> None:
    for model in ("alexnet", "vgg16", "resnet50"):
        composed = compose([f"model={model}"])
        assert composed.schedule["_target_"] == "imgcls.training.Plateau"
        assert composed.schedule["factor"] == 0.1


def test_a_tiny_data_set_brings_its_own_scale_and_the_command_line_wins_over_it() -> None:
    composed = compose(["model=resnet50", "data=shapes"])
    assert composed.image_size == composed.data.scale.image_size != composed.recipe.image_size
    assert compose(["model=resnet50", "data=shapes", "image_size=96"]).image_size == 96


@pytest.mark.parametrize(
    "override, words",
    [
        ("model=vg16", ["model=vg16", "did you mean vgg16?"]),
        ("optimizer.lrr=3", ["optimizer.lrr", "did you mean lr?", "momentum"]),
        ("precision=fp8", ["precision=fp8", "fp32, bf16, fp16"]),
        ("data.chanels=1", ["data.chanels", "did you mean channels?"]),
        ("bath_size=4", ["bath_size", "did you mean batch_size?"]),
        ("modle=vgg16", ["modle", "did you mean model?"]),
        ("batch_size=many", ["batch_size=many", "whole number"]),
        ("batch_size=-1", ["batch_size=-1", "at least 0", "0 chooses by the number of training images"]),
        ("device=gpu", ["device=gpu", "cuda"]),
        ("microbatch=100000", ["microbatch=100000", "batch_size"]),
        ("ema_decay=1", ["ema_decay=1.0", "below 1"]),
        ("augment.flip=2", ["augment.flip=2.0", "between 0 and 1"]),
        ("augment.policy=randaugmnt", ["augment.policy=randaugmnt", "did you mean randaugment?"]),
        ("lr_scaling=linaer", ["lr_scaling=linaer", "did you mean linear?"]),
        ("lr_scaling=0", ["lr_scaling=0 is none of auto, none, linear, sqrt, and no number above 0"]),
        ("lr_scaling=true", ["lr_scaling=True is none of auto, none, linear, sqrt, and no number above 0"]),
        ("data.on_bad_image=ignore", ["data.on_bad_image=ignore", "raise, skip"]),
        ("data.channels=4", ["data.channels=4", "1 (gray) or 3 (RGB)"]),
        ("data.mean=[0.5,0.5]", ["data.mean", "2 values"]),
        ("optimizer=null", ["optimizer=null: optimizer takes one name, or is left out; one of adamw, alexnet"]),
        ("experiment=3", ["experiment=3: experiment takes one name", "one of search, smoke"]),
        ("optimizer=[adamw,sgd]", ["optimizer=[adamw,sgd]: optimizer takes one name"]),
        ("+data=[mnist]", ["+data=[mnist]: data takes one name"]),
        ("optimizer.lr=[", ["optimizer.lr=[", "key=value"]),
        ("model=torchvision", ["model.arch"]),
        ("+epoch=1", ["epoch: there is no such key (did you mean epochs?); --cfg job shows the keys"]),
        ("++foo=3", ["foo: there is no such key"]),
        # Nothing is near, though letters are in common: early_stopping and lr_scaling, drop_path and model.depth.
        ("drop_path=0.1", ["drop_path: there is no such key; --cfg job"]),
        ("dropout=0.5", ["dropout: there is no such key; --cfg job"]),
        ("gpu=0", ["gpu: there is no such key (did you mean device?)"]),
        ("image=224", ["image: there is no such key (did you mean image_size?)"]),
        ("data.path=/x", ["data.path: there is no such key (did you mean data.root?)"]),
        (
            "optimiser.lr=1",
            ["optimiser.lr: there is no such key (did you mean optimizer.lr?); --cfg job"],
        ),
        ("channels_last=maybe", ["channels_last=maybe must be true or false"]),
        ("topk=5", ["topk=5 must be a list, as [1,2]"]),
        ("ema_decay=x", ["ema_decay=x must be a number"]),
        ("+data.foo=3", ["data.foo: there is no such key", "data has name, source, root"]),
        ("+data.scale.epoch=3", ["data.scale.epoch: there is no such key (did you mean epochs?)"]),
        ("seed=-1", ["seed=-1 must be between 0 and 4294967295"]),
        ("seed=5000000000", ["seed=5000000000 must be between 0 and 4294967295"]),
        ("optimizer.lr=abc", ["optimizer.lr=abc: torch.optim.SGD takes a number (float) there"]),
        ("optimizer.lr=null", ["optimizer.lr=null: torch.optim.SGD takes a number (float) there"]),
        ("optimizer.lr=-0.1", ["optimizer.lr=-0.1 is too small; use at least 0"]),
        ("optimizer.lr=nan", ["optimizer.lr=nan must be finite"]),
        ("~optimizer.lr", ["optimizer.lr has no value, and lr_scaling=linear changes it; give one: optimizer.lr="]),
        ("model.num_classes=abc", ["model.num_classes=abc must be a whole number; leave it out"]),
        ("model.in_channels=1.5", ["model.in_channels=1.5 must be a whole number; leave it out"]),
        ("head_lr_factor=0", ["head_lr_factor=0.0 must be above 0", "with 1 it has the lr of the rest"]),
        ("ema_decay=nan", ["ema_decay=nan must be at least 0 and below 1"]),
        ("divergence.lr_factor=0", ["divergence.lr_factor=0.0 must be above 0 and at most 1"]),
        ("divergence.stuck_epochs=0", ["must be above 0; divergence.on_stuck=ignore turns the warning off"]),
        ("~data", ["data.source=None has no _target_; choose one of conf/data"]),
        ("head_lr_factor=inf", ["head_lr_factor=inf must be above 0 and finite"]),
        ("clip_grad_norm=0", ["clip_grad_norm=0.0 must be above 0; null is no clipping"]),
        ("freeze=backbone", ["freeze=backbone", "random weights", "add weights=torchvision"]),
        ("freeze=[conv1,bn1]", ["freeze=[conv1,bn1]", "random weights", "or freeze=none"]),
        ("freeze=[]", ["freeze=[]", "a list of layers such as [conv1,layer1]"]),
        ("freeze=layer1", ["freeze=layer1", "layers are in a list: freeze=[layer1]"]),
        ("unfreeze_after_epochs=1", ["unfreeze_after_epochs=1", "freeze=none freezes nothing"]),
        ("layer_lr_decay=1.5", ["layer_lr_decay=1.5"]),
        ("lr_factors={fc:0}", ["lr_factors.fc=0", "freeze=[fc]"]),
    ],
)
def test_a_mistake_is_one_line_that_names_key_value_and_the_way_out(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        compose([override])
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_an_option_of_a_target_may_be_added() -> None:
    assert compose(["+optimizer.dampening=0.1"]).optimizer["dampening"] == 0.1
    assert compose(["+augment.crop.extra=1"]).augment.crop["extra"] == 1


def test_the_config_of_another_command_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--config-name: conf/ has config.yaml for `imgcls train`"):
        compose(config_name="evaluate")


def test_what_does_not_change_the_result_is_left_out_of_the_consequential() -> None:
    one = consequential(compose(["data.num_threads=1", "name=a", "data.root=x"]))
    other = consequential(compose(["data.num_threads=2", "overwrite=true", "logger=none"]))
    assert one == other
    assert one != consequential(compose(["seed=1"]))


def test_what_a_run_may_be_resumed_with_is_neither_in_its_name_nor_in_its_identity() -> None:
    assert {"data.root", "device", "divergence.stuck_steps"} <= INCIDENTAL - {"logger"} <= set(flatten(compose()))
    assert not any(key.startswith("logger") for key in consequential(compose(["logger=[tensorboard,wandb]"])))
    assert {"model", "data", "trust", *INCIDENTAL} == set(keys_not_in_run_name())


def test_a_test_prepares_its_images_as_training_did_and_names_the_set_only_if_asked() -> None:
    trained = compose(["data=mnist", "data.root=there", "data.num_threads=1"]).data
    same = data_of_test(trained, DataConfig(num_threads=3))
    assert (same.name, same.root, same.num_threads, same.mean) == ("mnist", "there", 3, [0.1307])
    assert (same.source, same.num_classes) == (trained.source, 10)
    given = compose(["data=folder", "data.root=here"]).data
    other = data_of_test(trained, given)
    assert (other.name, other.root, other.source) == ("folder", "here", given.source)
    assert (other.mean, other.channels, other.num_classes) == ([0.1307], 1, None)
    # The root of the training images is no other set's.
    assert data_of_test(trained, compose(["data=shapes"]).data).root is None


def test_a_long_run_name_is_cut_and_stays_unique() -> None:
    names = {run_name(None, f"{letter * 300}-{value}") for letter in "xé漢" for value in (1, 2)}
    assert len(names) == 6
    assert all(len(name.encode()) < 130 for name in names)
    assert run_name(None, "") == "default"
    assert run_name("é" * 60, "") == "é" * 60


def test_a_run_name_is_one_folder_and_no_other_runs() -> None:
    names = [run_name(name, "seed=1") for name in ("a/b", "a_b", "a b", "..", ".", "...", "../x", "_", "x..y")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.-]+", name) and name.strip(".") for name in names)
    assert (names[1], names[-1]) == ("a_b", "x..y")
    assert run_name(None, "optimizer.lr-0.1+data.mean-[1,2]") == "optimizer.lr-0.1+data.mean-_1_2_"


def test_a_run_name_begins_with_what_is_compared_and_ends_with_the_size_of_the_run() -> None:
    overrides = "batch_size-32+ema_decay-0.9+max_steps-60+model.pool-max+optimizer.lr-0.1+optimizer.momentum-0+seed-2"
    assert run_name(None, overrides) == (
        "optimizer.lr-0.1+optimizer.momentum-0+seed-2+model.pool-max+ema_decay-0.9+batch_size-32+max_steps-60"
    )
    assert run_name(None, "data.mean-[1]+optimizer-sgd+recipe-vgg") == "recipe-vgg+optimizer-sgd+data.mean-_1_"


def test_runs_on_two_folders_of_photos_have_two_names_unless_they_are_given_one() -> None:
    assert run_name(None, "", images_name("folder", "/photos/cats and dogs/")) == "cats_and_dogs"
    assert run_name(None, "seed-1", images_name("pack", "b.pack")) == "b.pack+seed-1"
    assert run_name(None, "", images_name("folder", ".")) == Path.cwd().name
    assert run_name("mine", "", images_name("folder", "/photos/own")) == "mine"
    assert images_name("webdataset", "/photos/own/{000..012}.tar") == "own"
    assert run_name(None, "data.name-ylecun/mnist+seed-2") == "mnist+seed-2"
    assert images_name("imagenet", "/data/imagenet") == images_name("folder", None) == ""


def test_a_setting_cannot_be_removed() -> None:
    with pytest.raises(ConfigError, match="~seed: a setting cannot be removed"):
        compose(["~seed"])


def test_a_table_of_images_names_the_run_by_its_folder_and_its_name() -> None:
    assert images_name("csv", "/my/birds/labels.csv") == "birds-labels"
