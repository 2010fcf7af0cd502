"""VGG: nothing but 3x3 convolutions, up to nineteen weight layers deep.

Simonyan, Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition".
The names of the layers are those of torchvision's vgg11 ... vgg19_bn, so that its weights load unchanged.
"""

from torch import Tensor, nn

from imgcls.models.layers import DenseHead, LocalResponseNorm, NoPublishedWeights, check_image_size, linear_of_averages

# Table 1, a row for each stage: (kernel, channels) of each convolution, or "LRN". A 2x2 max pooling ends a stage.
COLUMNS: dict[str, list[list[tuple[int, int] | str]]] = {
    "A": [
        [(3, 64)],
        [(3, 128)],
        [(3, 256), (3, 256)],
        [(3, 512), (3, 512)],
        [(3, 512), (3, 512)],
    ],
    "A-LRN": [
        [(3, 64), "LRN"],
        [(3, 128)],
        [(3, 256), (3, 256)],
        [(3, 512), (3, 512)],
        [(3, 512), (3, 512)],
    ],
    "B": [
        [(3, 64), (3, 64)],
        [(3, 128), (3, 128)],
        [(3, 256), (3, 256)],
        [(3, 512), (3, 512)],
        [(3, 512), (3, 512)],
    ],
    "C": [
        [(3, 64), (3, 64)],
        [(3, 128), (3, 128)],
        [(3, 256), (3, 256), (1, 256)],
        [(3, 512), (3, 512), (1, 512)],
        [(3, 512), (3, 512), (1, 512)],
    ],
    "D": [
        [(3, 64), (3, 64)],
        [(3, 128), (3, 128)],
        [(3, 256), (3, 256), (3, 256)],
        [(3, 512), (3, 512), (3, 512)],
        [(3, 512), (3, 512), (3, 512)],
    ],
    "E": [
        [(3, 64), (3, 64)],
        [(3, 128), (3, 128)],
        [(3, 256), (3, 256), (3, 256), (3, 256)],
        [(3, 512), (3, 512), (3, 512), (3, 512)],
        [(3, 512), (3, 512), (3, 512), (3, 512)],
    ],
}
# Columns by the names that others use for them; the others have none.
NAMES = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
INITIALISATIONS = ("glorot", "gaussian", "he")


class VGG(nn.Module):
    """One column of table 1: 132,863,336 (A) to 143,667,240 (E) parameters at 1000 classes.

    Images are 224x224 in the paper; other sizes are pooled to the 7x7 maps that the first linear layer expects.

    Args:
        column: A, A-LRN, B, C, D (VGG-16) or E (VGG-19).
        batch_norm: normalise after each convolution (Ioffe & Szegedy 2015), which the paper did not have.
        dropout: share of the two hidden fully connected layers zeroed in training.
        init: `glorot` or `gaussian`, see `init_weights`; `he` is He et al. 2015, for ReLU.

    Raises:
        ValueError: an unknown `column` or `init`; in forward, images under 32x32.
    """

    # Five halvings: 32 -> 16 -> 8 -> 4 -> 2 -> 1.
    min_image_size = 32

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        column: str = "D",
        batch_norm: bool = False,
        dropout: float = 0.5,
        init: str = "glorot",
    ) -> None:
        super().__init__()
        if column not in COLUMNS:
            raise ValueError(f"model.column={column} is not in VGG's table 1; use one of {', '.join(COLUMNS)}")
        if init not in INITIALISATIONS:
            raise ValueError(f"model.init={init} is unknown to VGG; use one of {', '.join(INITIALISATIONS)}")
        self.arch = NAMES.get(column, f"vgg_{column}") + ("_bn" if batch_norm else "")
        self.unpublished = (
            None
            if column in NAMES
            else NoPublishedWeights(
                f"torchvision publishes none for this VGG (column {column}); it has A, B, D and E",
                ("model=vgg16",),
            )
        )
        self.features = nn.Sequential(*feature_layers(column, in_channels=in_channels, batch_norm=batch_norm))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        self.init_weights(init)

    def init_weights(self, init: str) -> None:
        """Section 3.1. Biases 0.

        The paper drew column A from a Gaussian and started the deeper columns from the trained A. Its later note finds
        that Glorot & Bengio 2010 needs no such start: the default, so that every column trains alone.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                if init == "glorot":
                    nn.init.xavier_uniform_(layer.weight)
                elif init == "gaussian":
                    # The paper calls 0.01 the variance. Then each 512-channel layer would multiply the signal by five;
                    # it is read as the standard deviation, as in Krizhevsky et al. 2012.
                    nn.init.normal_(layer.weight, std=0.01)
                else:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        if init == "he":
            last = self.classifier[-1]
            assert isinstance(last, nn.Linear)
            nn.init.normal_(last.weight, std=0.01)  # no ReLU follows: logits near 0 at the start

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        check_image_size(images, self.min_image_size, network="VGG")
        first, *rest = self.classifier
        assert isinstance(first, nn.Linear)
        features = linear_of_averages(self.features(images), first, side=7)
        for layer in rest:
            features = layer(features)
        return features

    def fully_convolutional(self) -> nn.Module:
        """Return this network for images of any size: section 3.2."""
        return DenseHead(self, self.features, list(self.classifier), side=7)


def feature_layers(column: str, *, in_channels: int, batch_norm: bool) -> list[nn.Module]:
    """Return the convolutional part of one column of table 1."""
    layers: list[nn.Module] = []
    for stage in COLUMNS[column]:
        for row in stage:
            if isinstance(row, str):
                layers.append(LocalResponseNorm())
                continue
            kernel, channels = row
            layers.append(nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2))
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return layers
