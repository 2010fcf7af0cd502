"""Random Gaussian blur."""

from collections.abc import Sequence

import torch
from torch import Tensor

from imgcls.data.augment import keyed_random
from imgcls.data.on_device.augment import AugmentedBatch, BatchKey, check_setting

MAX_SIGMA = 64
REACH = 4  # a kernel ends at so many of its standard deviations


class GaussianBlur:
    """Blur some of the images. Chen et al. 2020, appendix A; Touvron et al. 2022, section 3.2.

    Args:
        probability: that an image is blurred; 0 is off.
        sigma: the standard deviation in pixels, drawn evenly between two numbers.

    Raises:
        ValueError: a value out of its range.
    """

    after_normalising = False
    needs_colour = False

    def __init__(self, probability: float = 0.0, sigma: Sequence[float] = (0.1, 2.0)) -> None:
        self.probability = check_setting("probability", probability, 1)
        self.sigma = check_sigma(sigma)

    def __call__(self, images: Tensor, targets: Tensor, key: BatchKey) -> AugmentedBatch:
        """Change images (B, C, H, W); the targets stay."""
        if not self.probability:
            return AugmentedBatch(images, targets)
        draws = key.uniforms(2, stream=keyed_random.BLUR)
        chosen, sigma = draws[:, 0] < self.probability, draw_sigma(self.sigma, draws[:, 1])
        return AugmentedBatch(blur_some(images, sigma, chosen), targets)


def check_sigma(sigma: Sequence[float]) -> tuple[float, float]:
    """Return the range of standard deviations.

    Raises:
        ValueError: they are not two positive numbers, the smaller one first.
    """
    if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1] <= MAX_SIGMA:
        raise ValueError(
            f"sigma={list(sigma)} is not a range; give two numbers above 0 and up to {MAX_SIGMA}, the smaller first"
        )
    return sigma[0], sigma[1]


def draw_sigma(sigma: tuple[float, float], draws: Tensor) -> Tensor:
    """Turn uniform numbers (B,) into standard deviations (B,)."""
    return sigma[0] + (sigma[1] - sigma[0]) * draws


def blur_some(images: Tensor, sigma: Tensor, chosen: Tensor) -> Tensor:
    """Blur those images (B, C, H, W) that are `chosen` (B,) bool, by their `sigma` (B,)."""
    if (
        images.device.type != "cpu" or torch.compiler.is_compiling()
    ):  # to choose there what is computed would wait for it
        return torch.where(chosen[:, None, None, None], blur(images, sigma), images)
    blurred = images.clone()
    blurred[chosen] = blur(images[chosen], sigma[chosen])
    return blurred


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur images (B, C, H, W), each by its Gaussian of sigma (B,) in pixels; edges are mirrored.

    The kernel is separable, and each of its two passes a product with a small matrix: an image needs no other kernel
    size than its neighbour, and nothing waits for the device.
    """
    num, channels, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).reshape(num, height, width * channels)
    down = torch.bmm(_kernel_matrix(sigma, height), rows).view(num, height, width, channels)
    columns = down.transpose(1, 2).reshape(num, width, height * channels)
    across = torch.bmm(_kernel_matrix(sigma, width), columns).view(num, width, height, channels)
    return across.permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)


def _kernel_matrix(sigma: Tensor, length: int) -> Tensor:
    """Return what a line of `length` pixels is multiplied by from the left to be blurred: (B, length, length)."""
    at = torch.arange(length, dtype=sigma.dtype, device=sigma.device)
    # A pixel is seen at its place, and mirrored at the first and at the last pixel, which themselves are seen once.
    ahead = at - at[:, None]
    before, behind = -at - at[:, None], 2 * (length - 1) - at - at[:, None]
    weights = _gaussian(ahead, sigma)
    weights = weights + _gaussian(before, sigma) * (at != 0) + _gaussian(behind, sigma) * (at != length - 1)
    return weights / weights.sum(dim=2, keepdim=True)


def _gaussian(distance: Tensor, sigma: Tensor) -> Tensor:
    scaled = distance / sigma[:, None, None]
    return torch.exp(-0.5 * scaled.square()) * (scaled.abs() <= REACH)
