"""Images of another size than a network was drawn for: too small ones are refused, other maps averaged to fit."""

import torch
from torch import Tensor


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

    As two products of matrices: of that function's gradient CUDA has no deterministic form.
    """
    height, width = maps.shape[-2:]
    rows, columns = averaging(height, side, like=maps), averaging(width, side, like=maps)
    return rows @ maps @ columns.T


def averaging(length: int, regions: int, *, like: Tensor) -> Tensor:
    """The matrix (regions, length) that averages each region; neighbours share what lies on their border."""
    places = torch.arange(length, device=like.device)
    region = torch.arange(regions, device=like.device)[:, None]
    first, end = region * length // regions, ((region + 1) * length + regions - 1) // regions
    inside = ((places >= first) & (places < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)
