"""A trial pass finds what a network cannot take, and leaves no trace in the network."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.errors import ConfigError
from imgcls.models import (
    GoogLeNet,
    ResNet,
    explained_sizes,
    parameters_without_gradient,
    timm_model,
    torchvision_model,
    try_out,
)
from imgcls.training import ClassificationLoss

SLOW = pytest.mark.slow


def trial(
    network: nn.Module, side: int, *, num_images: int = 8, num_classes: int = 5, in_eval: Sequence[nn.Module] = ()
) -> Tensor | tuple[Tensor, ...]:
    return try_out(
        network, num_images=num_images, channels=3, size=(side, side), num_classes=num_classes, in_eval=in_eval
    )


def test_a_transformer_of_another_size_is_one_line_with_two_ways_out() -> None:
    with pytest.raises(ConfigError) as caught:
        trial(timm_model("vit_tiny_patch16_224", 5, depth=1), 64)
    assert str(caught.value) == (
        "image_size=64 does not work with vit_tiny_patch16_224: Input height (64) doesn't match model (224); "
        "use image_size=224 or +model.img_size=64, which builds it for that size"
    )
    trial(timm_model("vit_tiny_patch16_224", 5, depth=1, img_size=64), 64)


@pytest.mark.slow
def test_torchvisions_transformer_is_refused_at_64_pixels() -> None:
    with pytest.raises(ConfigError, match=r"image_size=64 .* vit_b_32: .* image_size=224 or \+model.image_size=64"):
        trial(torchvision_model("vit_b_32", 5), 64)


@pytest.mark.e2e
@pytest.mark.parametrize("arch, side, heads", [("googlenet", 64, 2), pytest.param("inception_v3", 299, 1, marks=SLOW)])
def test_auxiliary_heads_of_torchvision_learn_with_their_weight_and_no_test_sees_them(
    arch: str, side: int, heads: int
) -> None:
    network = torchvision_model(arch, 5).train()
    for name, dropout in network.named_modules():
        if isinstance(dropout, nn.Dropout):
            network.get_submodule(name).p = 0  # type: ignore[assignment]
    images, labels = torch.randn(2, 3, side, side), torch.tensor([1, 4])
    auxiliary = [name for name, _ in network.named_parameters() if name.lower().startswith("aux")]
    gradients = {}
    for weight in (0.0, 0.3):
        network.zero_grad()
        output = network(images)
        assert len(output) == 1 + heads
        loss, logits = ClassificationLoss(auxiliary_weight=weight)(output, labels)
        loss.backward()
        assert logits is output[0]
        gradients[weight] = sum(float(network.get_parameter(name).grad.abs().sum()) for name in auxiliary)
        expected = F.cross_entropy(output[0], labels) + weight * sum(F.cross_entropy(o, labels) for o in output[1:])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert gradients[0.0] == 0 < gradients[0.3]
    assert isinstance(network.eval()(images), Tensor)


def test_a_network_whose_maps_vanish_is_refused_with_a_size_that_works() -> None:
    network = torchvision_model("squeezenet1_1", 5)
    with pytest.raises(ConfigError, match=r"image_size=8 does not work with squeezenet1_1: .*; use image_size=32$"):
        trial(network, 8)
    trial(network, 32)


@pytest.mark.slow
def test_inception_v3_is_refused_at_64_pixels() -> None:
    with pytest.raises(ConfigError, match=r"image_size=64 does not work with inception_v3: .*; use image_size=299$"):
        trial(torchvision_model("inception_v3", 5), 64)


def test_a_batch_norm_over_one_value_is_refused_and_two_images_are_not() -> None:
    network = ResNet(5, depth=18)
    with pytest.raises(
        ConfigError, match=r"image_size=32 with one image at a time: .*2 images or more .*image_size=48"
    ):
        trial(network, 32, num_images=1)
    trial(network, 32, num_images=2)
    trial(network, 48, num_images=1)
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    trial(network, 32, num_images=1, in_eval=norms)


def test_a_trial_changes_neither_weights_nor_statistics_nor_modes_nor_draws() -> None:
    network = GoogLeNet(5, batch_norm=True).eval()
    network.stem.train()
    before, modes = copy.deepcopy(network.state_dict()), [each.training for each in network.modules()]
    state = torch.get_rng_state()
    output = trial(network, 64)
    assert isinstance(output, tuple)
    assert len(output) == 3, "the auxiliary heads take part"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [each.training for each in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_of_a_test_is_explained_by_the_size_where_that_is_the_reason() -> None:
    network = timm_model("vit_tiny_patch16_224", 5, depth=1)
    words = (
        r"^image_size=64 does not work with vit_tiny_patch16_224: Input height \(64\) doesn't match model \(224\); "
        r"use image_size=224$"
    )
    with pytest.raises(ConfigError, match=words), explained_sizes(network, channels=3, size=(64, 64)):
        network(torch.zeros(1, 3, 64, 64))
    with pytest.raises(RuntimeError, match="another"), explained_sizes(network, channels=3, size=(224, 224)):
        raise RuntimeError("another")
    larger = timm_model("vit_tiny_patch16_224", 5, depth=1, img_size=64)
    with (
        pytest.raises(ConfigError, match=r"use image_size=64$"),
        explained_sizes(larger, channels=3, size=(224, 224)),
    ):
        larger(torch.zeros(1, 3, 224, 224))
    with pytest.raises(RuntimeError, match="shapes"), explained_sizes(Own(), channels=1, size=(8, 8)):
        Own()(torch.zeros(1, 1, 8, 8))


class Own(nn.Module):
    def __init__(self, result: Any = None) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 5), nn.Linear(3, 5)
        self.result = result

    def forward(self, images: Tensor) -> Any:
        return self.used(images.mean(dim=(2, 3))) if self.result is None else self.result


def test_an_own_network_keeps_its_errors_and_must_return_logits() -> None:
    class Broken(Own):
        def forward(self, images: Tensor) -> object:
            return self.used(images)

    with pytest.raises(RuntimeError, match=r"shapes"):
        trial(Broken(), 16)
    with pytest.raises(ConfigError, match=r"Own returns dict in training"):
        trial(Own({"logits": torch.zeros(2, 5)}), 16)
    with pytest.raises(ConfigError, match=r"returns 2x5x1 for 2 images"):
        trial(Own(torch.zeros(2, 5, 1)), 16)
    with pytest.raises(ConfigError, match=r"returns 2x5 for 2 images; .*with 6 columns"):
        trial(Own(), 16, num_classes=6)


def test_parameters_that_get_no_gradient_are_named_and_frozen_ones_are_not() -> None:
    network = Own()
    network.unused.bias.requires_grad_(False)
    assert parameters_without_gradient(network, trial(network, 16)) == ["unused.weight"]
