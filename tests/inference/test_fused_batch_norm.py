"""Folded batch norms give the same logits, and a network where they would not is left alone."""

import pytest
import torch
import torchvision
from torch import nn

from imgcls.inference import fuse_batch_norms
from imgcls.models import VGG, GoogLeNet, ResNet


def lived_in(network: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights as after training."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(
    "network",
    [
        ResNet(5, depth=18),
        ResNet(5, depth=50),
        VGG(5, column="A", batch_norm=True),
        GoogLeNet(5, batch_norm=True),
        torchvision.models.mobilenet_v3_small(num_classes=5),
    ],
    ids=lambda network: type(network).__name__,
)
@torch.inference_mode()
def test_folded_networks_give_the_same_logits_without_norms(network: nn.Module) -> None:
    network = lived_in(network)
    folded = fuse_batch_norms(network, torch.randn(2, 3, 64, 64))
    assert folded is not network
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(2, 3, 64, 64)
    expected = network(images)
    assert torch.allclose(folded(images), expected, atol=1e-4 * float(expected.abs().max()))


class Crossed(nn.Module):
    """A norm beside a convolution that it does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(images)).mean(dim=(2, 3))


def test_a_network_that_would_change_stays_as_it_is() -> None:
    network = lived_in(Crossed())
    assert fuse_batch_norms(network, torch.randn(2, 3, 16, 16)) is network
    plain = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert fuse_batch_norms(plain, torch.randn(2, 3, 16, 16)) is plain
