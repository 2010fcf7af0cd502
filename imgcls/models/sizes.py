"""The one refusal that every network here makes: images too small for its layers."""

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
