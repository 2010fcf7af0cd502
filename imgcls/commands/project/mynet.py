"""A network of your own: three convolutions, each with batch norm, and a linear layer."""

from torch import Tensor, nn


class Net(nn.Module):
    """Classify images of any size of 8 pixels or more.

    Args:
        num_classes: the data say how many.
        in_channels: 1 for gray images, 3 for colour; the data say which.
        width: channels of the first convolution; conf/model/mynet.yaml sets it.
    """

    min_image_size = 8

    def __init__(self, num_classes: int = 1000, *, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        widths = [in_channels, width, 2 * width, 4 * width]
        self.features = nn.Sequential(*map(block, widths[:-1], widths[1:]))
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, num_classes)."""
        return self.fc(self.features(x).mean(dim=(2, 3)))


def block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a convolution that halves the image, with batch norm and ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())
