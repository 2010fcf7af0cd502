"""A checkpoint's config describes a network, and cannot run code, read files or download."""

import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imgcls.checkpoints import save_checkpoint
from imgcls.config import compose, config_from_checkpoint, consequential
from imgcls.errors import ConfigError
from imgcls.inference import open_checkpoint

TIMM = ["model=timm", "model.arch=resnet18d", "data=folder", "image_size=32"]


class Payload:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def old_timm() -> types.ModuleType:
    """As much of timm before 1.0.26 as matters: it unpickles checkpoint_path."""

    def create_model(arch: str, *, num_classes: int, checkpoint_path: str = "", **options: Any) -> nn.Module:
        if checkpoint_path:
            pickle.loads(Path(checkpoint_path).read_bytes())
        return nn.Sequential(nn.Flatten(), nn.Linear(3, num_classes))

    timm = types.ModuleType("timm")
    timm.__dict__.update(create_model=create_model, is_model=lambda arch: True, list_models=list, __version__="1.0.15")
    return timm


def flat_config(*overrides: str, **more: Any) -> dict[str, Any]:
    return consequential(compose([*TIMM, *overrides])) | {key.replace("__", "."): value for key, value in more.items()}


def write(file: Path, config: dict[str, Any]) -> Path:
    weights = {"1.weight": torch.zeros(2, 3), "1.bias": torch.zeros(2)}
    save_checkpoint({"config": config, "classes": ["a", "b"], "model": weights}, file)
    return file


def test_a_checkpoint_that_names_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", old_timm())
    marker, bad = tmp_path / "marker", tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps(Payload(marker)))
    file = write(tmp_path / "best.pt", flat_config() | {"model.checkpoint_path": str(bad)})
    with pytest.raises(ConfigError, match=r"checkpoint=.*best.pt: its config has model.checkpoint_path=.*bad.pth"):
        open_checkpoint(file).build(torch.device("cpu"))
    assert not marker.exists()


@pytest.mark.parametrize(
    "key, value",
    [
        ("model.checkpoint_path", "/tmp/x.pth"),
        ("model.pretrained_cfg", "x"),
        ("model.pretrained_cfg.url", "https://example.org/x.pth"),
        ("model.pretrained_cfg_overlay.file", "x.pth"),
        ("model.cache_dir", "x"),
        ("model.unheard_of", 1),
        ("model.arch", "hf-hub:someone/model"),
        ("model.arch", "local-dir:/tmp/x"),
        ("model.act_layer", "../x"),
        ("model.global_pool", ["avg", "https://example.org"]),
        ("model._target_", "imgcls.models.read_weights"),
        ("model._target_", "imgcls.models.weights._download"),
        ("data.source.train", "/etc"),
        ("data.source.val", "../../etc"),
        ("data.name", "${oc.env:HOME}"),
        ("augment.eval_crop.short_side", ["${oc.env:HOME}"]),
    ],
)
def test_what_a_checkpoint_may_not_set_is_named_and_the_way_out_is_trust(
    key: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = flat_config() | {key: value}
    with pytest.raises(ConfigError) as caught:
        config_from_checkpoint(flat)
    assert f"{key}={value}" in str(caught.value)
    assert "IMGCLS_TRUST_CONFIG=1" in str(caught.value)
    monkeypatch.setenv("IMGCLS_TRUST_CONFIG", "1")
    if "${" not in str(value):
        config_from_checkpoint(flat)


def test_sizes_rates_and_kinds_of_layers_may_be_set() -> None:
    more = {"model.drop_path_rate": 0.1, "model.act_layer": "gelu", "model.img_size": [64, 64], "model.qk_norm": True}
    config = config_from_checkpoint(flat_config("model.pretrained=true") | more)
    assert config.model["act_layer"] == "gelu"
    assert config.model["pretrained"] is True  # what the run began with; building it passes it over


@pytest.mark.parametrize("flat", [None, [1], "model", {1: 2}])
def test_a_config_of_another_kind_is_damaged(flat: object) -> None:
    with pytest.raises(ConfigError, match="its config is damaged"):
        config_from_checkpoint(flat)


@pytest.mark.parametrize("target", ["timm.create_model", "timm.models.load_checkpoint", "torchvision.models.resnet18"])
def test_networks_from_outside_come_from_their_factories_alone(target: str) -> None:
    from imgcls.config import build_component

    with pytest.raises(ConfigError, match=r"not allowed; it must be below imgcls\.models"):
        build_component("model", {"_target_": target})
