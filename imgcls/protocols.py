"""The test protocols of the papers: which views of an image a network is shown, before their predictions are averaged.

A view is a box of the source image and the size it is resampled to, as in `imgcls.data.crops`. Lengths are those of the
papers, for networks of 224 pixels, and follow the network's own image size in proportion.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.data.crops import CenterCrop, Crop
from imgcls.data.views import View
from imgcls.models.alexnet import AlexNet, rectify
from imgcls.models.external import nearest
from imgcls.models.googlenet import GoogLeNet
from imgcls.models.lenet import LeNet5
from imgcls.models.resnet import ResNet
from imgcls.models.vgg import VGG

AVERAGES = ("softmax", "logits")
RESNET_SCALES = (224, 256, 384, 480, 640)  # He et al. 2015, section 3.4


class TestProtocol(Protocol):
    """What an evaluation asks of a protocol."""

    @property
    def flip(self) -> bool:
        """Whether each view is shown mirrored too."""
        ...

    @property
    def average(self) -> str:
        """Of what the mean over the views is taken: `softmax` probabilities, or `logits`."""
        ...

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        """The views of an image of height x width, for a network of `image_size` that was validated on `crop`."""
        ...


@dataclasses.dataclass(frozen=True)
class Center:
    """The crop that the network was validated on: the central square, for most."""

    flip: bool = False
    average: str = "softmax"

    def __post_init__(self) -> None:
        _check(self)

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        left, top, right, bottom = crop.boxes(
            np.array([[height, width]]), np.zeros((1, crop.num_draws)), image_size=image_size
        )[0]
        return [View(left, top, right, bottom, image_size, image_size)]


@dataclasses.dataclass(frozen=True)
class TenCrop:
    """The four corners and the centre, and each mirrored: Krizhevsky et al. 2012, section 4.1.

    Args:
        short_side: what the shorter side is resized to, for a network of 224 pixels; None takes that of the crop it was
            validated on.
        of_square: take the corners of the central square, which is all that section 2 of the paper keeps of an image;
            otherwise those of the whole image, as is done since.
    """

    flip: bool = True
    average: str = "softmax"
    short_side: int | None = None
    of_square: bool = True

    def __post_init__(self) -> None:
        _check(self)

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        if self.short_side is None:
            own = crop if isinstance(crop, CenterCrop) else CenterCrop()
            short = max(image_size, round(own.short_side * image_size / own.at_image_size))
        else:
            short = _proportional(self.short_side, image_size, "protocol.short_side")
        rows, columns = resized(height, width, short)
        top, left = (round((rows - short) / 2), round((columns - short) / 2)) if self.of_square else (0, 0)
        down, across = (short, short) if self.of_square else (rows, columns)
        return [
            _window((height, width), (rows, columns), top + y, left + x, image_size, out=image_size)
            for y, x in corners_and_centre(down, across, image_size)
        ]


@dataclasses.dataclass(frozen=True)
class GoogLeNet144:
    """144 crops: 4 scales, 3 squares in each, 6 crops of each, and each mirrored. Szegedy et al. 2014, section 7.

    The squares lie left, in the centre and right (of a portrait: top, centre, bottom); from each the four corners, the
    centre, and the square itself resized: from the source in one step, so that it is nearly the same at each scale.
    """

    flip: bool = True
    average: str = "softmax"
    scales: Sequence[int] = (256, 288, 320, 352)

    def __post_init__(self) -> None:
        _check(self)
        _check_scales(self.scales)

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        del crop
        found = []
        for scale in self.scales:
            short = _proportional(scale, image_size, "protocol.scales")
            size, whole = (height, width), resized(height, width, short)
            for place in (0.0, 0.5, 1.0):
                top, left = (round(place * (side - short)) for side in whole)
                found += [
                    _window(size, whole, top + y, left + x, image_size, out=image_size)
                    for y, x in corners_and_centre(short, short, image_size)
                ]
                found.append(_window(size, whole, top, left, short, out=image_size))
        return found


@dataclasses.dataclass(frozen=True)
class Dense:
    """The whole image at several sizes, through the network made fully convolutional.

    Simonyan & Zisserman 2014, section 3.2: class scores averaged over the positions, softmax averaged over mirror
    images; section 4.2: and over scales. He et al. 2015, section 3.4, the same with scales 224, 256, 384, 480, 640.
    """

    flip: bool = True
    average: str = "softmax"
    scales: Sequence[int] = (256, 384, 512)

    def __post_init__(self) -> None:
        _check(self)
        _check_scales(self.scales)

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        del crop
        sizes = [resized(height, width, _proportional(scale, image_size, "protocol.scales")) for scale in self.scales]
        return [View(0.0, 0.0, float(width), float(height), rows, columns) for rows, columns in sizes]


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


def resized(height: int, width: int, short: int) -> tuple[int, int]:
    """Height and width once the shorter side is `short`; the longer is cut to an integer, as torchvision's Resize."""
    return (short, short * width // height) if height <= width else (short * height // width, short)


def corners_and_centre(down: int, across: int, size: int) -> list[tuple[int, int]]:
    """Top and left of five windows of `size` in down x across: the corners from the top left on, and the centre."""
    bottom, right = down - size, across - size
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]


def _window(size: tuple[int, int], whole: tuple[int, int], top: int, left: int, side: int, *, out: int) -> View:
    # A square of the resized image, as a box of the source.
    height, width = size
    down, across = whole
    return View(
        left * width / across,
        top * height / down,
        (left + side) * width / across,
        (top + side) * height / down,
        out,
        out,
    )


def _proportional(scale: int, image_size: int, key: str) -> int:
    short = round(scale * image_size / 224)
    if short < image_size:
        raise ValueError(f"{key} has {scale}, which is smaller than the crop it is for; use 224 or more")
    return short


def _check(protocol: Any) -> None:
    if protocol.average not in AVERAGES:
        raise ValueError(
            f"protocol.average={protocol.average} is none of {', '.join(AVERAGES)}{nearest(protocol.average, AVERAGES)}"
        )


def _check_scales(scales: Sequence[int]) -> None:
    if not scales or min(scales) < 224:
        raise ValueError(f"protocol.scales={list(scales)}: give one or more lengths of 224 or more, as [256,384,512]")
