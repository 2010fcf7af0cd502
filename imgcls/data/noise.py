"""Images of noise, to measure a step without any data."""

import numpy as np

from imgcls.data.sources import ImageSet, arrays


def noise(
    root: str | None = None,
    *,
    channels: int = 3,
    image_size: int = 224,
    num_images: int = 256,
    num_classes: int = 1000,
) -> ImageSet:
    """Noise of one size, with labels as even as they can be; the same for training and validation."""
    del root
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (num_images, image_size, image_size, channels), np.uint8)
    labels = np.arange(num_images) % num_classes
    return arrays((images, labels), (images, labels), [str(label) for label in range(num_classes)], name="noise")
