"""ResNet, the network that won ILSVRC 2015.

He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition".
The names of the layers are those of torchvision's resnet18 ... resnet152, so that its weights load unchanged
(with `stride_in_3x3=true`, the form of torchvision).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.models.layers import NoPublishedWeights, check_image_size


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them: figure 5, left."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int, stride_in_3x3: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(in_channels, width, stride=stride)

    def forward(self, maps: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        residual += self.downsample(maps)
        return F.relu(residual, inplace=True)


class Bottleneck(nn.Module):
    """1x1 to narrow, 3x3, 1x1 to widen fourfold, and the shortcut around them: figure 5, right."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int, stride_in_3x3: bool) -> None:
        super().__init__()
        stride1, stride2 = (1, stride) if stride_in_3x3 else (stride, 1)
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=stride1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut(in_channels, out_channels, stride=stride)

    def forward(self, maps: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        residual += self.downsample(maps)
        return F.relu(residual, inplace=True)


# Table 1: the block, and how many of it in conv2_x ... conv5_x.
DEPTHS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A network of table 1: 11,689,512 (18) to 60,192,808 (152) parameters at 1000 classes, for 224x224.

    Any size fits: every convolution and pooling pads, and the last maps are averaged.

    Args:
        depth: 18, 34, 50, 101 or 152 weight layers.
        stride_in_3x3: halve the maps in the 3x3 of a bottleneck, not in its first 1x1 as the paper does. The later form
            ("v1.5", torchvision's) looks at every position: slightly better, 4.1 instead of 3.9 G multiply-adds at
            depth 50. No difference at 18 and 34, which have no bottleneck.
        zero_init_residual: start the last batch normalisation of each block at 0, so that each block starts as its
            shortcut (Goyal et al. 2017, section 5.1). Not in the paper.

    Raises:
        ValueError: an unknown `depth`; in forward, images without pixels.
    """

    # 1 -> 1 -> ... -> 1; from 33 on no stage works on padding alone.
    min_image_size = 1

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        depth: int = 50,
        stride_in_3x3: bool = False,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(
                f"model.depth={depth} is not in ResNet's table 1; use one of {', '.join(map(str, DEPTHS))}"
            )
        self.arch = f"resnet{depth}"
        block, (num2, num3, num4, num5) = DEPTHS[depth]
        self.unpublished = (
            None
            if stride_in_3x3 or block is BasicBlock
            else NoPublishedWeights(
                f"the published resnet{depth} halves its maps in the 3x3 (v1.5), the paper's in the 1x1 before; add",
                ("model.stride_in_3x3=true",),
            )
        )
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        widths = 64 * block.expansion
        self.layer1 = stage(block, num2, 64, 64, stride=1, stride_in_3x3=stride_in_3x3)
        self.layer2 = stage(block, num3, widths, 128, stride=2, stride_in_3x3=stride_in_3x3)
        self.layer3 = stage(block, num4, widths * 2, 256, stride=2, stride_in_3x3=stride_in_3x3)
        self.layer4 = stage(block, num5, widths * 4, 512, stride=2, stride_in_3x3=stride_in_3x3)
        self.fc = nn.Linear(widths * 8, num_classes)
        self.init_weights(zero_init_residual=zero_init_residual)

    def init_weights(self, *, zero_init_residual: bool) -> None:
        """Convolutions as He et al. 2015, "Delving Deep into Rectifiers", eq. 14: it keeps the gradient's variance.

        The paper says no more; the classifier N(0, 0.01) is from Goyal et al. 2017, section 5.1.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(layer, BasicBlock):
                nn.init.zeros_(layer.bn2.weight)
            elif zero_init_residual and isinstance(layer, Bottleneck):
                nn.init.zeros_(layer.bn3.weight)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        check_image_size(images, self.min_image_size, network="ResNet")
        maps = F.relu(self.bn1(self.conv1(images)), inplace=True)  # 112x112 at 224
        maps = self.layer1(self.maxpool(maps))  # 56x56
        maps = self.layer2(maps)  # 28x28
        maps = self.layer3(maps)  # 14x14
        maps = self.layer4(maps)  # 7x7
        return self.fc(maps.mean(dim=(2, 3)))

    def fully_convolutional(self) -> nn.Module:
        """Return itself: the mean over the positions is already last, and goes through a linear layer."""
        return self


def stage(
    block: type[BasicBlock | Bottleneck],
    num_blocks: int,
    in_channels: int,
    width: int,
    *,
    stride: int,
    stride_in_3x3: bool,
) -> nn.Sequential:
    """Return one of conv2_x ... conv5_x; only its first block halves the maps."""
    out_channels = width * block.expansion
    first = block(in_channels, width, stride=stride, stride_in_3x3=stride_in_3x3)
    rest = [block(out_channels, width, stride=1, stride_in_3x3=stride_in_3x3) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)


def shortcut(in_channels: int, out_channels: int, *, stride: int) -> nn.Module:
    """Option B of section 3.3: the identity, or a 1x1 convolution where size or channels change."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )
