"""AlexNet, the network that won ILSVRC 2012.

Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks".
"""

import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.models.layers import (
    DenseHead,
    NoPublishedWeights,
    check_image_size,
    linear_of_averages,
    local_response_norm,
    rectify,
)

INITIALISATIONS = ("paper", "he")


class AlexNet(nn.Module):
    """Five convolutions and three fully connected layers on 227x227: 62,378,344 parameters, 60,965,224 in two groups.

    Departures from the paper, by default: one tower (`groups`) and pooling before normalisation (`norm_before_pool`);
    always: it says 224x224, but its 55x55 maps need 227 without padding; other sizes are pooled to the 6x6 maps that
    FC6 expects, which does not change 227.

    Args:
        groups: 1, or 2 for the paper's two towers, which meet in conv3 and the fully connected layers. Only the
            convolutions are split; normalisation runs over all channels, also where the towers touch.
        norm_before_pool: normalise, then pool, as the paper's section 3.5; otherwise pool first, which normalises a
            quarter of the values.
        dropout: share of FC6 and FC7 zeroed in training.
        init: `paper` (section 5) or `he` (He et al. 2015, for ReLU). The paper's small weights are meant for pixels of
            0..255 less their mean; on images of unit variance the signal starts some 60 times weaker.

    Raises:
        ValueError: an unknown `groups` or `init`; in forward, images under 67x67.
    """

    arch = "alexnet"
    unpublished = NoPublishedWeights(
        "torchvision publishes none for this AlexNet; its own is another network",
        ("model=torchvision", "model.arch=alexnet"),
    )
    # 67 -> 15 (conv1) -> 7 -> 3 -> 1 (the three poolings).
    min_image_size = 67

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        groups: int = 1,
        norm_before_pool: bool = False,
        dropout: float = 0.5,
        init: str = "paper",
    ) -> None:
        super().__init__()
        if groups not in (1, 2):
            raise ValueError(f"model.groups={groups} does not fit AlexNet; use 1, or 2 for the paper's two towers")
        if init not in INITIALISATIONS:
            raise ValueError(f"model.init={init} is unknown to AlexNet; use one of {', '.join(INITIALISATIONS)}")
        self.norm_before_pool = norm_before_pool
        self.conv1 = nn.Conv2d(in_channels, 96, kernel_size=11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=groups)
        self.conv3 = nn.Conv2d(256, 384, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, kernel_size=3, padding=1, groups=groups)
        self.conv5 = nn.Conv2d(384, 256, kernel_size=3, padding=1, groups=groups)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.init_weights(init)

    def init_weights(self, init: str) -> None:
        """Section 5: weights N(0, 0.01); biases 1 where a ReLU needs a push (conv2, 4, 5, FC6, FC7), 0 elsewhere."""
        for parameter in self.parameters():
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
            elif init == "paper":
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        if init == "paper":
            for layer in (self.conv2, self.conv4, self.conv5, self.fc6, self.fc7):
                assert layer.bias is not None
                nn.init.ones_(layer.bias)
        else:
            nn.init.normal_(self.fc8.weight, std=0.01)  # no ReLU follows: logits near 0 at the start

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        check_image_size(images, self.min_image_size, network="AlexNet")
        features = linear_of_averages(self.features(images), self.fc6, side=6)
        features = self.dropout(rectify(features))
        features = self.dropout(rectify(self.fc7(features)))
        return self.fc8(features)

    def features(self, images: Tensor) -> Tensor:
        """Maps (B, 256, 6, 6) of images (B, C, 227, 227); other sizes give maps of other sizes."""
        maps = self.pool_and_norm(rectify(self.conv1(images)))  # 55 -> 27 at 227
        maps = self.pool_and_norm(rectify(self.conv2(maps)))  # 27 -> 13
        maps = rectify(self.conv3(maps))
        maps = rectify(self.conv4(maps))
        return F.max_pool2d(rectify(self.conv5(maps)), 3, stride=2)  # 13 -> 6

    def pool_and_norm(self, maps: Tensor) -> Tensor:
        """Overlapping 3x3/2 max pooling and local response normalisation, in the order of `norm_before_pool`."""
        if self.norm_before_pool:
            return F.max_pool2d(local_response_norm(maps), 3, stride=2)
        return local_response_norm(F.max_pool2d(maps, 3, stride=2))

    def fully_convolutional(self) -> nn.Module:
        """Return this network for images of any size: FC6 as a 6x6 convolution, FC7 and FC8 as 1x1."""
        relu = nn.ReLU(inplace=True)
        head = [self.fc6, relu, self.dropout, self.fc7, relu, self.dropout, self.fc8]
        return DenseHead(self, self.features, head, side=6)
