"""What several networks share: normalisation, images of other sizes than the paper's, and dense evaluation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoPublishedWeights(NamedTuple):
    """Why torchvision's weights do not fit a network, and the overrides that choose a network which they fit."""

    reason: str
    overrides: tuple[str, ...]


def check_image_size(images: Tensor, least: int, *, network: str) -> None:
    """Refuse images (B, C, H, W) with a side below `least`, before a layer fails with a message about its own maps.

    Raises:
        ValueError: H or W is less than `least`.
    """
    height, width = images.shape[-2:]
    if height < least or width < least:
        raise ValueError(
            f"images of {height}x{width} pixels are too small for {network}, whose layers need at least "
            f"{least}x{least}; set image_size={least} or more, or choose a smaller model"
        )


def average_to(maps: Tensor, side: int) -> Tensor:
    """Average maps (B, C, H, W) over regions to (B, C, side, side), the regions of F.adaptive_avg_pool2d.

    Two matrix products: CUDA has no deterministic gradient of that function.
    """
    height, width = maps.shape[-2:]
    rows, columns = averaging(height, side, like=maps), averaging(width, side, like=maps)
    return rows @ maps @ columns.T


def linear_of_averages(maps: Tensor, linear: nn.Linear, side: int) -> Tensor:
    """Return `linear` of maps (B, C, H, W) averaged to (B, C, side, side) and flattened: (B, outputs).

    Maps with fewer places than that would only be repeated. The weights of the places that see the same value are
    added up instead, which is the same function to rounding: at 32 pixels a step of VGG-16 takes a third less time.
    """
    height, width = maps.shape[-2:]
    if height * width >= side * side:
        return linear((maps if (height, width) == (side, side) else average_to(maps, side)).flatten(1))
    rows, columns = (averaging(length, side, like=linear.weight) for length in (height, width))
    places = linear.weight.view(-1, side * side) @ torch.kron(rows, columns)
    return F.linear(maps.flatten(1), places.view(linear.out_features, -1), linear.bias)


def averaging(length: int, regions: int, *, like: Tensor) -> Tensor:
    """Return the matrix (regions, length) that averages each region; neighbouring regions share their border."""
    places = torch.arange(length, device=like.device)
    region = torch.arange(regions, device=like.device)[:, None]
    first, end = region * length // regions, ((region + 1) * length + regions - 1) // regions
    inside = ((places >= first) & (places < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def local_response_norm(
    maps: Tensor, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Tensor:
    """Divide each channel by (k + alpha * sum of the squares of its `size` neighbours) ** beta.

    Krizhevsky et al. 2012, section 3.3, and its constants. Maps (B, C, H, W) keep their shape and type.

    The paper multiplies the sum by alpha; torch.nn.LocalResponseNorm, like Caffe, multiplies the mean. Equal to torch's
    with alpha * size, and three times as fast on a CPU, where torch's goes through a 3-D average pooling.

    Raises:
        ValueError: `size` is not an odd positive number, which leaves no channel in the middle.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(
            f"size={size} leaves no channel in the middle of local_response_norm; use an odd size such as 5"
        )
    num_channels = maps.shape[1]
    # In float32 at least, also under autocast: the square of an fp16 map overflows from 256 on.
    squares = maps.to(torch.promote_types(maps.dtype, torch.float32)).square()
    squares = F.pad(squares, (0, 0, 0, 0, size // 2, size // 2))
    energy = squares.narrow(1, 0, num_channels)
    for offset in range(1, size):
        energy = energy + squares.narrow(1, offset, num_channels)
    return maps * (k + alpha * energy).pow(-beta).to(maps.dtype)


class LocalResponseNorm(nn.Module):
    """`local_response_norm` with the paper's constants, as a layer."""

    def forward(self, maps: Tensor) -> Tensor:
        return local_response_norm(maps)


def rectify(maps: Tensor) -> Tensor:
    """Apply ReLU in place: no convolution or linear layer needs its output in the backward pass."""
    return F.relu(maps, inplace=True)


class DenseHead(nn.Module):
    """Convolutions, then a classifier applied at every position of their maps: for images of any size and shape.

    Simonyan & Zisserman 2014, section 3.2: the first linear layer becomes a convolution over the maps it was trained
    on, the others 1x1, and the logits are averaged over the positions. The weights are those of `network`.

    Args:
        features: images (B, C, H, W) to maps; part of `network`.
        head: the layers of the classifier, in their order.
        side: of the maps that the first linear layer was trained on.
    """

    def __init__(
        self, network: nn.Module, features: Callable[[Tensor], Tensor], head: Sequence[nn.Module], *, side: int
    ) -> None:
        super().__init__()
        self.network = network
        self.features = features
        self.head = nn.ModuleList(head)
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W): the mean over the positions."""
        maps, side = enlarge_to(self.features(images), self.side), self.side
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                maps, side = slide(layer, maps, side=side), 1
            else:
                maps = layer(maps)
        return maps.mean(dim=(2, 3))


def slide(layer: nn.Linear, maps: Tensor, *, side: int) -> Tensor:
    """Apply a linear layer at every position of maps (B, C, H, W), as a convolution of side x side."""
    weight = layer.weight.view(layer.out_features, -1, side, side)
    return F.conv2d(maps, weight, layer.bias)


def enlarge_to(maps: Tensor, side: int) -> Tensor:
    """Repeat the values of maps (B, C, H, W) smaller than `side`, as the networks do with images smaller than 224."""
    height, width = maps.shape[-2:]
    if height >= side and width >= side:
        return maps
    return F.adaptive_avg_pool2d(maps, (max(height, side), max(width, side)))


def first_convolution(network: nn.Module) -> Tensor | None:
    """Return the kernels (N, C, H, W) of the first convolution if they can be shown as pictures, or None.

    Those of other than 1 or 3 channels are no picture, and of a single pixel show nothing.
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.weight.shape[1] not in (1, 3) or first.kernel_size[0] < 2:
        return None
    return first.weight.detach()
