"""Weights go into networks for gray or colour images and of other image sizes; the log says how they were changed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from imgcls.config import Config
from imgcls.inference import open_weights
from imgcls.models import LeNet5, build_model, fit_weights, load_into, timm_model, torchvision_model

Make = Callable[..., Config]
GRAY = torch.linspace(-1, 1, 2 * 32 * 32).view(2, 1, 32, 32)
COLOUR = GRAY.expand(2, 3, 32, 32)


@pytest.mark.parametrize("before, now, how", [(3, 1, "summed from 3 channels to 1"), (1, 3, "repeated from 1 channel")])
@torch.inference_mode()
def test_a_gray_image_gives_what_it_gave_as_three_equal_channels(before: int, now: int, how: str) -> None:
    theirs, ours = (LeNet5(4, in_channels=channels).eval() for channels in (before, now))
    state, (text,) = fit_weights(ours, theirs.state_dict())
    assert how in text
    assert load_into(ours, state, "theirs") == []
    images = {1: GRAY, 3: COLOUR}
    assert torch.allclose(ours(images[now]), theirs(images[before]), atol=1e-5)


def test_weights_that_fit_stay_as_they_are() -> None:
    state = LeNet5(4, in_channels=3).state_dict()
    assert fit_weights(LeNet5(9, in_channels=3), state) == (state, [])


def test_the_log_says_how_the_first_layer_was_changed(
    tiny_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    torch.save(LeNet5(4, in_channels=3).state_dict(), tmp_path / "w.pth")
    config = tiny_config(f"weights={tmp_path / 'w.pth'}", "data.channels=1", "data.mean=[0.5]", "data.std=[0.5]")
    build_model(config, num_classes=4)
    line = f"weights  {tmp_path / 'w.pth'}: as they are; conv1.weight summed from 3 channels to 1"
    assert [record.getMessage() for record in caplog.records] == [line]
    caplog.clear()
    member = open_weights(str(tmp_path / "w.pth"), config)
    assert caplog.records[0].getMessage() == line
    assert member.build(torch.device("cpu"))(GRAY).shape == (2, 4)


@pytest.mark.parametrize(
    "arch, small, other, changed",
    [
        ("vit_tiny_patch16_224", {"depth": 1}, {"img_size": 96}, "pos_embed"),
        (
            "swin_tiny_patch4_window7_224",
            {"depths": (1, 1, 1, 1), "embed_dim": 24},
            {"img_size": 256, "window_size": 8},
            r"relative_position_bias_table, .* and 2 more",
        ),
    ],
)
@torch.inference_mode()
def test_timms_transformers_are_resampled_for_another_image_size(
    arch: str, small: dict[str, Any], other: dict[str, Any], changed: str
) -> None:
    state = timm_model(arch, 5, **small).state_dict()
    with torch.device("meta"):
        outline = timm_model(arch, 5, **small, **other)
    fitted, (text,) = fit_weights(outline, state)
    assert text.startswith("resampled for another image size: ")
    assert re.search(changed, text)
    network = timm_model(arch, 5, **small, **other)
    assert load_into(network, fitted, "theirs") == []
    side = other["img_size"]
    assert network.eval()(torch.zeros(1, 3, side, side)).isfinite().all()


def torchvisions(image_size: int) -> Any:
    return torchvision.models.VisionTransformer(image_size, 8, 1, 2, 8, 8, num_classes=5)


def test_torchvisions_transformers_are_resampled_for_another_image_size() -> None:
    state = torchvisions(32).state_dict()
    before = state["encoder.pos_embedding"].clone()
    network = torchvisions(48)
    fitted, texts = fit_weights(network, state)
    assert texts == ["resampled for another image size: encoder.pos_embedding"]
    assert load_into(network, fitted, "theirs") == []
    places = network.encoder.pos_embedding
    assert torch.equal(places[:, 0], before[:, 0])  # the class token has no place
    assert torch.allclose(places[0, 1], before[0, 1], atol=1e-6)  # corners stay corners
    assert torch.equal(state["encoder.pos_embedding"], before)


def test_a_transformer_that_cannot_be_resampled_names_the_size_and_the_way_out() -> None:
    state = timm_model("cait_xxs24_224", 5, depth=1).state_dict()
    network = timm_model("cait_xxs24_224", 5, depth=1, img_size=96)
    fitted, texts = fit_weights(network, state)
    assert texts == []
    with pytest.raises(ValueError) as caught:
        load_into(network, fitted, "weights=x")
    assert str(caught.value) == (
        "weights=x does not fit Cait: of another shape: pos_embed 1x196x192 for 1x36x192; "
        "they are for another image size: image_size=224 +model.img_size=224 builds the network for it"
    )


@torch.inference_mode()
def test_torchvisions_networks_take_gray_images_and_published_weights_for_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    published = torchvision.models.squeezenet1_1().eval()
    monkeypatch.setattr(
        torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", lambda *_, **__: published.state_dict()
    )
    fresh = torchvision_model("squeezenet1_1", 7, in_channels=1).eval()
    assert fresh(GRAY).shape == (2, 7)
    first = fresh.get_submodule("features.0")
    assert isinstance(first, nn.Conv2d)
    assert first.in_channels == 1
    network = torchvision_model("squeezenet1_1", 1000, in_channels=1, weights="DEFAULT").eval()
    assert torch.allclose(network(GRAY), published(COLOUR), atol=1e-4)
    assert caplog.records[-1].getMessage() == (
        "weights  DEFAULT of torchvision's squeezenet1_1: features.0.weight summed from 3 channels to 1"
    )
