"""GoogLeNet, the network that won ILSVRC 2014.

Szegedy et al. 2014, "Going Deeper with Convolutions".
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.models.layers import LocalResponseNorm, NoPublishedWeights, average_to, check_image_size


class GoogLeNetOutput(NamedTuple):
    """What the network returns in training: logits (B, K) of the top, and of the heads on 4a and 4d."""

    logits: Tensor
    aux1: Tensor
    aux2: Tensor


class Widths(NamedTuple):
    """Output channels of one inception module: a row of table 1."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


# Table 1, from inception (3a) to (5b).
INCEPTIONS = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
INITIALISATIONS = ("he", "glorot")


class GoogLeNet(nn.Module):
    """Nine inception modules on 224x224: 6,998,552 parameters, 13,378,280 with both heads, at 1000 classes.

    Where the paper is silent: normalisation takes AlexNet's constants, and see `init_weights`.

    Args:
        aux_heads: two more classifiers, on 4a and 4d, that serve in training only.
        batch_norm: normalise after each convolution, instead of its bias and the local response normalisation, which
            Ioffe & Szegedy 2015, section 4.2.1, find needless then.
        dropout: share of the averaged features zeroed in training; `aux_dropout` the same in the heads.
        init: `he` (He et al. 2015) or `glorot` (Glorot & Bengio 2010).

    Raises:
        ValueError: an unknown `init`; in forward, images under 31x31.
    """

    arch = "googlenet"
    unpublished = NoPublishedWeights(
        "torchvision publishes none for this GoogLeNet; its own is another network",
        ("model=torchvision", "model.arch=googlenet"),
    )
    # 31 -> 16 (conv1) -> 8 -> 4 -> 2 -> 1 (the four poolings, which round up).
    min_image_size = 31

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        aux_heads: bool = True,
        batch_norm: bool = False,
        dropout: float = 0.4,
        aux_dropout: float = 0.7,
        init: str = "he",
    ) -> None:
        super().__init__()
        if init not in INITIALISATIONS:
            raise ValueError(f"model.init={init} is unknown to GoogLeNet; use one of {', '.join(INITIALISATIONS)}")
        self.aux_heads = aux_heads

        def norm() -> nn.Module:
            return nn.Identity() if batch_norm else LocalResponseNorm()

        def inception(name: str, in_channels: int) -> Inception:
            return Inception(in_channels, INCEPTIONS[name], batch_norm=batch_norm)

        self.stem = nn.Sequential(
            conv(in_channels, 64, 7, stride=2, batch_norm=batch_norm),
            halve(),
            norm(),
            conv(64, 64, 1, batch_norm=batch_norm),
            conv(64, 192, 3, batch_norm=batch_norm),
            norm(),
            halve(),
        )
        self.inception3a = inception("3a", 192)
        self.inception3b = inception("3b", 256)
        self.pool3 = halve()
        self.inception4a = inception("4a", 480)
        self.inception4b = inception("4b", 512)
        self.inception4c = inception("4c", 512)
        self.inception4d = inception("4d", 512)
        self.inception4e = inception("4e", 528)
        self.pool4 = halve()
        self.inception5a = inception("5a", 832)
        self.inception5b = inception("5b", 832)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        if aux_heads:
            self.aux1 = AuxHead(512, num_classes, batch_norm=batch_norm, dropout=aux_dropout)
            self.aux2 = AuxHead(528, num_classes, batch_norm=batch_norm, dropout=aux_dropout)
        self.init_weights(init)

    def init_weights(self, init: str) -> None:
        """Keep the signal's variance from layer to layer; biases 0.

        The paper does not say how it drew its weights. Glorot's halve the variance at each ReLU, and there are 21.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                if init == "he":
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                else:
                    nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        # The classifiers have no ReLU after them: logits near 0, the loss near ln K, at the start.
        for layer in (self.fc, *((self.aux1.fc2, self.aux2.fc2) if self.aux_heads else ())):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor | GoogLeNetOutput:
        """Logits (B, K) of images (B, C, H, W); in training with heads, the logits of all three classifiers."""
        check_image_size(images, self.min_image_size, network="GoogLeNet")
        maps = self.stem(images)  # 28x28 at 224
        maps = self.pool3(self.inception3b(self.inception3a(maps)))  # 14x14
        maps4a = self.inception4a(maps)
        maps4d = self.inception4d(self.inception4c(self.inception4b(maps4a)))
        maps = self.pool4(self.inception4e(maps4d))  # 7x7
        maps = self.inception5b(self.inception5a(maps))
        logits = self.fc(self.dropout(maps.mean(dim=(2, 3))))
        if self.training and self.aux_heads:
            return GoogLeNetOutput(logits, self.aux1(maps4a), self.aux2(maps4d))
        return logits

    def fully_convolutional(self) -> nn.Module:
        """Return itself: the mean over the positions is already last, and goes through a linear layer."""
        return self


class Inception(nn.Module):
    """Four views of the same maps, side by side: figure 2(b)."""

    def __init__(self, in_channels: int, widths: Widths, *, batch_norm: bool) -> None:
        super().__init__()
        self.branch1 = conv(in_channels, widths.conv1x1, 1, batch_norm=batch_norm)
        self.branch3 = nn.Sequential(
            conv(in_channels, widths.reduce3x3, 1, batch_norm=batch_norm),
            conv(widths.reduce3x3, widths.conv3x3, 3, batch_norm=batch_norm),
        )
        self.branch5 = nn.Sequential(
            conv(in_channels, widths.reduce5x5, 1, batch_norm=batch_norm),
            conv(widths.reduce5x5, widths.conv5x5, 5, batch_norm=batch_norm),
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            conv(in_channels, widths.pool_proj, 1, batch_norm=batch_norm),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.branch1(maps), self.branch3(maps), self.branch5(maps), self.branch_pool(maps)], dim=1)


class AuxHead(nn.Module):
    """A small classifier on the 14x14 maps of 4a or 4d, so that lower layers get a gradient: section 5."""

    def __init__(self, in_channels: int, num_classes: int, *, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.conv = conv(in_channels, 128, 1, batch_norm=batch_norm)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        # The paper's 5x5/3 average pooling gives 4x4 from 14x14; images of other sizes are averaged to 4x4 too.
        maps = F.avg_pool2d(maps, 5, stride=3) if maps.shape[-2:] == (14, 14) else average_to(maps, 4)
        features = F.relu(self.fc1(self.conv(maps).flatten(1)), inplace=True)
        return self.fc2(self.dropout(features))


def conv(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, batch_norm: bool) -> nn.Sequential:
    """Return a convolution, padded to keep the size before its stride, and its ReLU."""
    padding = kernel // 2
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=not batch_norm)
    norm = [nn.BatchNorm2d(out_channels)] if batch_norm else []
    return nn.Sequential(layer, *norm, nn.ReLU(inplace=True))


def halve() -> nn.MaxPool2d:
    """Return the paper's 3x3/2 max pooling: 112 -> 56 -> 28 -> 14 -> 7 by rounding up."""
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
