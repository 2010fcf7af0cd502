"""Networks of torchvision and timm, and whether conf/model names real things."""

import importlib
import inspect
import pathlib
import sys
import types
from collections.abc import Callable

import pytest
import torch
import torchvision
import yaml
from torch import Tensor, nn

from imgcls.config import Config
from imgcls.inference import open_checkpoint
from imgcls.models import timm_model, torchvision_model
from imgcls.models.external import without_weights

CONFIGS = sorted((pathlib.Path(__file__).resolve().parents[2] / "conf" / "model").glob("*.yaml"))
RECIPES = {"lenet", "alexnet", "vgg", "googlenet", "resnet", "resnet_paper", "modern"}

# From the table, at 1000 classes but for lenet5.
PARAMETERS = {
    "lenet5": 61_706,
    "alexnet": 62_378_344,
    "vgg11": 132_863_336,
    "vgg11_lrn": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16_1x1": 133_638_952,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "googlenet": 13_378_280,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}


VGG_WITH_BATCH_NORM = {"vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"}
EPOCHS_OF_THEIR_OWN = {
    "vgg16",
    "vgg16_1x1",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
}


def test_conf_model_has_a_file_for_each_network() -> None:
    assert {path.stem for path in CONFIGS} == PARAMETERS.keys() | {"torchvision", "timm"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_model_config_lists_every_option_with_its_default_and_no_other(path: pathlib.Path) -> None:
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    config = yaml.safe_load(text)
    # The slowest bring a smaller image, fewer epochs or less patience, the one that is longest at chance more patience,
    # some a lower lr than their recipe.
    brings = {"small_image_size"} if path.stem == "resnet152" else set()
    brings |= {"small_epochs"} if path.stem in EPOCHS_OF_THEIR_OWN else set()
    brings |= {"small_patience_epochs"} if path.stem in {"resnet34", "resnet101", "resnet152"} else set()
    brings |= {"small_min_gain"} if path.stem == "resnet152" else set()
    brings |= {"small_min_epochs"} if path.stem in {"vgg19", "vgg19_bn", "resnet152"} else set()
    brings |= {"small_lr_scaling"} if path.stem in {"resnet152", *VGG_WITH_BATCH_NORM} else set()
    assert config.keys() == {"defaults", "model"} | ({"recipe"} if brings else set())
    assert config.get("recipe", {}).keys() == brings
    overrides = {key: value for override in config["defaults"] for key, value in override.items()}
    assert overrides["override /recipe"] in RECIPES
    assert overrides.keys() <= {"override /recipe", "override /data"}

    options = config["model"]
    module, _, name = options.pop("_target_").rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    named = {key: value for key, value in parameters.items() if value.kind is not inspect.Parameter.VAR_KEYWORD}
    assert options.keys() == named.keys()
    # What tells one file of a family from another; all else is the constructor's default.
    chosen = {"num_classes", "in_channels", "arch", "column", "batch_norm", "depth"}
    assert {key: options[key] for key in options.keys() - chosen} == {
        key: named[key].default for key in named.keys() - chosen
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_model_config_builds_the_network_of_its_name(name: str) -> None:
    options = yaml.safe_load(next(path for path in CONFIGS if path.stem == name).read_text())["model"]
    module, _, cls = options.pop("_target_").rpartition(".")
    options.update(num_classes=10, in_channels=1) if name == "lenet5" else options.update(
        num_classes=1000, in_channels=3
    )
    with torch.device("meta"):
        model = getattr(importlib.import_module(module), cls)(**options)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


# torchvision


@pytest.mark.parametrize(
    "arch", ["convnext_tiny", "densenet121", "efficientnet_v2_s", "mobilenet_v3_small", "squeezenet1_1", "swin_t"]
)
def test_any_classifier_of_torchvision_is_built_for_the_classes_asked_for(arch: str) -> None:
    with torch.device("meta"):
        model = torchvision_model(arch, 7).eval()
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 7)


@pytest.mark.parametrize("arch, size, heads", [("googlenet", 224, 2), ("inception_v3", 299, 1)])
@pytest.mark.filterwarnings("error")
def test_auxiliary_heads_of_torchvision_come_after_the_logits(arch: str, size: int, heads: int) -> None:
    with torch.device("meta"):
        model, images = torchvision_model(arch, 7), torch.empty(2, 3, size, size)
        output = model.train()(images)
        assert isinstance(output, tuple)
        assert output._fields[0] == "logits"  # pyright: ignore
        assert [tuple(logits.shape) for logits in output] == [(2, 7)] * (1 + heads)
        assert isinstance(model.eval()(images), Tensor)


def test_torchvision_options_reach_the_network() -> None:
    with torch.device("meta"):
        assert torchvision_model("vit_b_16", 3, image_size=64).eval()(torch.empty(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize(
    "arch, options, words",
    [
        ("convnext_tinny", {}, r"model.arch=convnext_tinny .*did you mean convnext_tiny"),
        ("zzz", {}, r"model.arch=zzz is no classifier of torchvision"),
        # Listed by torchvision, but for segmentation.
        ("fcn_resnet50", {}, r"model.arch=fcn_resnet50 is no classifier"),
        ("resnet18", {"weights": "IMAGENET"}, r"model.weights=IMAGENET .*use null or one of .*IMAGENET1K_V1.*DEFAULT"),
        ("resnet18", {"dropouts": 0.1}, r"model.arch=resnet18 does not take .*'dropouts'"),
    ],
)
def test_torchvision_models_refuse_what_they_cannot_do(arch: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        torchvision_model(arch, 10, **options)


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "DEFAULT"])
def test_published_weights_are_kept_but_for_a_head_of_other_classes(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = torchvision.models.squeezenet1_1()
    state = published.state_dict()
    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", lambda *_, **__: state)

    same = torchvision_model("squeezenet1_1", 1000, weights=weights).state_dict()
    assert all(torch.equal(same[name], state[name]) for name in state)
    other = torchvision_model("squeezenet1_1", 7, weights=weights).state_dict()
    fresh = (
        {name for name in state if not torch.equal(other[name], state[name])} if other.keys() == state.keys() else None
    )
    assert fresh == {"classifier.1.weight", "classifier.1.bias"}
    assert other["classifier.1.weight"].shape[0] == 7


def test_published_googlenet_keeps_its_scaling_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision_model("googlenet", 1000).state_dict()
    monkeypatch.setattr(torchvision.models.GoogLeNet_Weights, "get_state_dict", lambda *_, **__: state)
    model = torchvision_model("googlenet", 7, weights="DEFAULT")
    assert model.transform_input is True
    assert torch.equal(model.state_dict()["conv1.conv.weight"], state["conv1.conv.weight"])
    assert torchvision_model("googlenet", 7).transform_input is False


# timm


def test_timm_that_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"model.arch=resnet50d .*pip install timm.*imgcls\[timm\]"):
        timm_model("resnet50d", 10)


def stand_in() -> types.ModuleType:
    """As much of timm as is called, where timm itself is not installed."""

    def create_model(arch: str, *, num_classes: int, in_chans: int, pretrained: bool, width: int = 4) -> nn.Module:
        return nn.Sequential(nn.Conv2d(in_chans, width, 1), nn.Flatten(), nn.Linear(width, num_classes))

    timm = types.ModuleType("timm")
    timm.__dict__.update(
        __version__="1.0",
        create_model=create_model,
        list_models=lambda: ["resnet50d", "resnet26d"],
        is_model=lambda arch: arch.partition(".")[0] in ("resnet50d", "resnet26d"),
    )
    return timm


def test_timm_models_take_classes_channels_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", stand_in())
    model = timm_model("resnet50d.a1_in1k", 7, in_channels=1, width=8)
    assert model(torch.zeros(2, 1, 1, 1)).shape == (2, 7)
    with pytest.raises(ValueError, match=r"model.arch=resnet50e is no network of timm 1.0 \(did you mean resnet50d\?"):
        timm_model("resnet50e", 7)
    with pytest.raises(ValueError, match=r"model.arch=resnet50d does not take .*'depth'"):
        timm_model("resnet50d", 7, depth=3)


@pytest.mark.e2e
def test_timm_itself_builds_a_network() -> None:
    pytest.importorskip("timm", reason="timm is not installed: its own networks are not tried")
    assert timm_model("resnet18d", 7, in_channels=1).eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 7)
    with pytest.raises(ValueError, match="did you mean resnet18d"):
        timm_model("resnet18dd", 7)
    with pytest.raises(ValueError, match="'drop_paths'"):
        timm_model("resnet18d", 7, drop_paths=0.1)


# Without weights


def forbid_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)


@pytest.mark.parametrize(
    "arch, classes, options",
    [
        ("squeezenet1_1", 1000, {}),
        ("squeezenet1_1", 7, {}),
        ("googlenet", 1000, {}),
        ("googlenet", 1000, {"aux_logits": True}),
        ("googlenet", 7, {}),
        pytest.param("inception_v3", 1000, {}, marks=pytest.mark.e2e),
        pytest.param("vit_b_16", 1000, {"weights": "IMAGENET1K_SWAG_E2E_V1"}, marks=pytest.mark.e2e),
    ],
)
@pytest.mark.filterwarnings("ignore:auxiliary heads in the pretrained")
def test_a_network_that_began_with_published_weights_is_built_the_same_without_them(
    arch: str, classes: int, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", lambda *_, **__: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
    settings = {"arch": arch, "num_classes": classes, "in_channels": 3, "weights": "DEFAULT", **options}
    with torch.device("meta"):
        began = torchvision_model(**settings)
    monkeypatch.undo()
    forbid_downloads(monkeypatch)
    later = without_weights({"_target_": "imgcls.models.torchvision_model", **settings})
    del later["_target_"]
    with torch.device("meta"):
        resumed = torchvision_model(**later)
    shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in (began, resumed)]
    assert shapes[0] == shapes[1]
    assert getattr(began, "transform_input", None) == getattr(resumed, "transform_input", None)
    assert getattr(began, "aux_logits", None) == getattr(resumed, "aux_logits", None)


def test_a_run_that_began_with_published_weights_resumes_and_is_tested_offline(
    tiny_config: Callable[..., Config], train: Callable, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torchvision.models.squeezenet1_1().state_dict()
    config = tiny_config("max_steps=2")
    config.model = {"_target_": "imgcls.models.torchvision_model", "arch": "squeezenet1_1", "weights": "DEFAULT"}
    with monkeypatch.context() as online:
        online.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", lambda *_, **__: state)
        train(config)
    forbid_downloads(monkeypatch)
    (tmp_path / "run" / "results.json").unlink()  # as if it had been broken off
    train(config)
    assert open_checkpoint(tmp_path / "run").build(torch.device("cpu"))(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_pretrained_network_of_timm_is_built_again_without_its_weights() -> None:
    settings = {"_target_": "imgcls.models.timm_model", "arch": "resnet18d", "pretrained": True, "drop_rate": 0.1}
    assert without_weights({**settings, "checkpoint_path": "x.pth"}) == {
        "_target_": "imgcls.models.timm_model",
        "arch": "resnet18d",
        "drop_rate": 0.1,
    }
