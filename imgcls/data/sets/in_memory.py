"""Images of noise, to measure a step without any data."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.config import ImageSize
from imgcls.data.sets.splits import ImageSet, image_set_of_arrays
from imgcls.environment import cache_folder

log = logging.getLogger(__name__)


def draw_noise(
    root: str | None = None,
    *,
    channels: int = 3,
    image_size: int | list[int] = 224,
    num_images: int = 256,
    num_classes: int = 1000,
) -> ImageSet:
    """Noise of one size, with labels as even as they can be; the same for training and validation."""
    del root
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (num_images, *ImageSize.of(image_size), channels), np.uint8)
    labels = np.arange(num_images) % num_classes
    return image_set_of_arrays(
        (images, labels), (images, labels), [str(label) for label in range(num_classes)], name="noise"
    )


def load_mnist(root: str | None = None, *, channels: int = 1, download: bool = True) -> ImageSet:
    """LeCun & Cortes: 60,000 and 10,000 digits, 28x28, grayscale."""
    return _arrays("MNIST", "mnist", root, channels, download)


def load_fashion_mnist(root: str | None = None, *, channels: int = 1, download: bool = True) -> ImageSet:
    """Xiao et al. 2017: 60,000 and 10,000 pieces of clothing, 28x28, grayscale."""
    return _arrays("FashionMNIST", "fashion_mnist", root, channels, download)


def load_cifar10(root: str | None = None, *, channels: int = 3, download: bool = True) -> ImageSet:
    """Krizhevsky 2009: 50,000 and 10,000 photos of ten classes, 32x32."""
    return _arrays("CIFAR10", "cifar10", root, channels, download)


def load_cifar100(root: str | None = None, *, channels: int = 3, download: bool = True) -> ImageSet:
    """Krizhevsky 2009: 50,000 and 10,000 photos of a hundred classes, 32x32."""
    return _arrays("CIFAR100", "cifar100", root, channels, download)


def _arrays(dataset_name: str, name: str, root: str | None, channels: int, download: bool) -> ImageSet:
    import torchvision  # here: it takes a second that other sets need not wait for

    dataset = getattr(torchvision.datasets, dataset_name)
    base = Path(root).expanduser() if root else cache_folder() / name
    train, val = (_open(dataset, name, base, train=train, download=download) for train in (True, False))
    return image_set_of_arrays(
        (_images(train.data, channels), np.asarray(train.targets)),
        (_images(val.data, channels), np.asarray(val.targets)),
        train.classes,
        name=name,
    )


def _open(dataset: Callable[..., Any], name: str, base: Path, *, train: bool, download: bool) -> Any:
    try:
        return dataset(str(base), train=train, download=False)
    except RuntimeError:  # torchvision's word for files that are missing or incomplete
        if not download:
            raise FileNotFoundError(
                f"data={name} is not in {base}; name a folder that has torchvision's files, data.root=DIR, or add "
                f"data={name}, which downloads them"
            ) from None
        log.info("%s is not in %s: downloading it", name, base)
    try:
        return dataset(str(base), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"data={name} is not in {base} and cannot be downloaded ({error}); put torchvision's files there, "
            "or name a folder that has them with data.root=..."
        ) from error


def _images(data: Any, channels: int) -> np.ndarray:
    images = np.asarray(data)  # (N, H, W) or (N, H, W, 3)
    images = images[..., None] if images.ndim == 3 else images
    if channels == images.shape[3]:
        return np.ascontiguousarray(images)
    if channels == 3:
        return np.repeat(images, 3, axis=3)
    raise ValueError(f"data.channels={channels} but the images have {images.shape[3]}; use data.channels=3")
