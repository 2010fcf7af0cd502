"""TODO imgcls.inference.fully_convolutional."""

import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.models import VGG, AlexNet, GoogLeNet, LeNet5, ResNet, rectify


def fully_convolutional(network: nn.Module) -> nn.Module:
    """Make of a classifier one for images of any size and shape, that shares its weights.

    VGG's and AlexNet's first linear layer becomes a convolution over the maps it was trained on, the others 1x1, and
    the logits are averaged over the positions. ResNet and GoogLeNet average their maps over all positions already, and
    that is the same: an average goes through a linear layer. LeNet-5 averages before F6, by its own definition.

    Raises:
        ValueError: a network that is not known to work on maps of any size.
    """
    if isinstance(network, AlexNet):
        return DenseAlexNet(network)
    classifier, features = getattr(network, "classifier", None), getattr(network, "features", None)
    pool = getattr(network, "avgpool", None)
    if isinstance(network, ResNet | GoogLeNet | LeNet5):
        return network
    if isinstance(network, VGG):
        return DenseHead(network.features, list(network.classifier), side=7)
    if isinstance(pool, nn.AdaptiveAvgPool2d):
        side = pool.output_size if isinstance(pool.output_size, int) else 0
        side = pool.output_size[0] or 0 if isinstance(pool.output_size, tuple) else side
        if side == 1:
            return network
        if side and isinstance(classifier, nn.Sequential) and isinstance(features, nn.Module):
            return DenseHead(features, list(classifier), side=side)
    raise ValueError(
        f"protocol=dense: {type(network).__name__} is not known to work on maps of any size; "
        "use protocol=center, ten_crop or googlenet144"
    )


class DenseHead(nn.Module):
    """Convolutions, then linear layers slid over their maps: VGG, and torchvision's AlexNet."""

    def __init__(self, features: nn.Module, head: list[nn.Module], *, side: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.ModuleList(head)
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W): the mean over the positions."""
        maps = at_least(self.features(images), self.side)
        side = self.side
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                maps, side = slide(layer, maps, side=side), 1
            else:
                maps = layer(maps)
        return maps.mean(dim=(2, 3))


class DenseAlexNet(nn.Module):
    """AlexNet with FC6 as a 6x6 convolution, FC7 and FC8 as 1x1."""

    def __init__(self, network: AlexNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W): the mean over the positions."""
        own = self.network
        maps = own.pool_and_norm(rectify(own.conv1(images)))
        maps = own.pool_and_norm(rectify(own.conv2(maps)))
        maps = rectify(own.conv4(rectify(own.conv3(maps))))
        maps = at_least(F.max_pool2d(rectify(own.conv5(maps)), 3, stride=2), 6)
        maps = own.dropout(rectify(slide(own.fc6, maps, side=6)))
        maps = own.dropout(rectify(slide(own.fc7, maps)))
        return slide(own.fc8, maps).mean(dim=(2, 3))


def slide(layer: nn.Linear, maps: Tensor, *, side: int = 1) -> Tensor:
    """Apply a linear layer at every position of maps (B, C, H, W), as a convolution of side x side."""
    weight = layer.weight.view(layer.out_features, -1, side, side)
    return F.conv2d(maps, weight, layer.bias)


def at_least(maps: Tensor, side: int) -> Tensor:
    """Pool maps (B, C, H, W) up to `side` where they are smaller, as the networks do with images under 224."""
    height, width = maps.shape[-2:]
    if height >= side and width >= side:
        return maps
    return F.adaptive_avg_pool2d(maps, (max(height, side), max(width, side)))
