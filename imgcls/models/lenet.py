"""LeNet-5, the network that read cheques.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", section II.B, figure 2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.models.layers import check_image_size


def scaled_tanh(maps: Tensor) -> Tensor:
    """Return 1.7159 tanh(2x/3), which the paper squashes by: slope near 1 at 0, and +-1 at x = +-1 (appendix A)."""
    return 1.7159 * torch.tanh(maps * (2 / 3))


ACTIVATIONS = {"tanh": scaled_tanh, "relu": F.relu}
POOLS = {"average": F.avg_pool2d, "max": F.max_pool2d}


class LeNet5(nn.Module):
    """C1 6 5x5, S2, C3 16 5x5, S4, C5 120 5x5, F6 84, output: 61,706 parameters at 10 classes on 1x32x32.

    Four departures from the paper, each the form in which the network is used today:
    - S2 and S4 only average (or take the maximum); the paper multiplies the average by a trained coefficient, adds a
      trained bias and squashes it. The next convolution can learn all but the squashing.
    - C3 sees all six maps of S2; the paper's table I connects each of its maps to three to six of them, "to break
      symmetry" and save time. 900 weights more.
    - The output is a linear layer under softmax; the paper's is the distance to hand-drawn 7x12 bitmaps (RBF units),
      which exist for characters only.
    - Larger images are averaged over the positions of C5, so that any size from 32 on fits.

    Args:
        activation: `tanh` (the paper's, scaled) or `relu`.
        pool: `average` (the paper's subsampling) or `max`.

    Raises:
        ValueError: an unknown `activation` or `pool`; in forward, images under 32x32.
    """

    arch = "lenet5"
    # 32 -> 28 (C1) -> 14 (S2) -> 10 (C3) -> 5 (S4) -> 1 (C5).
    min_image_size = 32

    def __init__(
        self, num_classes: int = 10, *, in_channels: int = 1, activation: str = "tanh", pool: str = "average"
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"model.activation={activation} is unknown to LeNet5; use one of {', '.join(ACTIVATIONS)}")
        if pool not in POOLS:
            raise ValueError(f"model.pool={pool} is unknown to LeNet5; use one of {', '.join(POOLS)}")
        self.activation = activation
        self.pool = pool
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.conv3 = nn.Conv2d(6, 16, kernel_size=5)
        self.conv5 = nn.Conv2d(16, 120, kernel_size=5)
        self.fc6 = nn.Linear(120, 84)
        self.fc7 = nn.Linear(84, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Uniform in +-2.4 / fan-in, as appendix A sets for its tanh; He et al. 2015 for ReLU. Biases 0."""
        for parameter in self.parameters():
            fan_in = parameter[0].numel()
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
            elif self.activation == "tanh":
                nn.init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)
            else:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        check_image_size(images, self.min_image_size, network="LeNet5")
        act, pool = ACTIVATIONS[self.activation], POOLS[self.pool]
        maps = pool(act(self.conv1(images)), 2)
        maps = pool(act(self.conv3(maps)), 2)
        maps = act(self.conv5(maps))
        features = maps.mean(dim=(2, 3))
        return self.fc7(act(self.fc6(features)))

    def fully_convolutional(self) -> nn.Module:
        """Return itself: larger images are averaged over the positions of C5."""
        return self
