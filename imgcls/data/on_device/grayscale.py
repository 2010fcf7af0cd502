"""Random grayscale: some of the images lose their colours."""

from torch import Tensor

from imgcls.data.augment import keyed_random
from imgcls.data.on_device.augment import AugmentedBatch, BatchKey, check_setting
from imgcls.data.on_device.colour import luma


class RandomGrayscale:
    """Show some of the images in shades of gray, by the weights of ITU-R BT.601. Chen et al. 2020, appendix A.

    Args:
        probability: that an image loses its colours; 0 is off.

    Raises:
        ValueError: `probability` is not in 0..1.
    """

    after_normalising = False
    needs_colour = True

    def __init__(self, probability: float = 0.0) -> None:
        self.probability = check_setting("probability", probability, 1)

    def __call__(self, images: Tensor, targets: Tensor, key: BatchKey) -> AugmentedBatch:
        """Change images (B, 3, H, W) in 0..1; the targets stay."""
        if not self.probability:
            return AugmentedBatch(images, targets)
        chosen = key.uniforms(1, stream=keyed_random.GRAYSCALE) < self.probability
        return AugmentedBatch(images.lerp(luma(images), chosen[:, :, None, None].float()), targets)
