"""Small sets as torchvision packs them, wholly in memory; downloaded where the files are missing."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torchvision

from imgcls.data.cache import cache_folder
from imgcls.data.sources import ImageSet, arrays

log = logging.getLogger(__name__)


def mnist(root: str | None = None, *, channels: int = 1) -> ImageSet:
    """LeCun & Cortes: 60,000 and 10,000 digits, 28x28, grayscale."""
    return _arrays(torchvision.datasets.MNIST, "mnist", root, channels)


def fashion_mnist(root: str | None = None, *, channels: int = 1) -> ImageSet:
    """Xiao et al. 2017: 60,000 and 10,000 pieces of clothing, 28x28, grayscale."""
    return _arrays(torchvision.datasets.FashionMNIST, "fashion_mnist", root, channels)


def cifar10(root: str | None = None, *, channels: int = 3) -> ImageSet:
    """Krizhevsky 2009: 50,000 and 10,000 photos of ten classes, 32x32."""
    return _arrays(torchvision.datasets.CIFAR10, "cifar10", root, channels)


def cifar100(root: str | None = None, *, channels: int = 3) -> ImageSet:
    """Krizhevsky 2009: 50,000 and 10,000 photos of a hundred classes, 32x32."""
    return _arrays(torchvision.datasets.CIFAR100, "cifar100", root, channels)


def _arrays(dataset: Callable[..., Any], name: str, root: str | None, channels: int) -> ImageSet:
    base = Path(root).expanduser() if root else cache_folder() / name
    train, val = _open(dataset, name, base, train=True), _open(dataset, name, base, train=False)
    return arrays(
        (_images(train.data, channels), np.asarray(train.targets)),
        (_images(val.data, channels), np.asarray(val.targets)),
        train.classes,
        name=name,
    )


def _open(dataset: Callable[..., Any], name: str, base: Path, *, train: bool) -> Any:
    try:
        return dataset(str(base), train=train, download=False)
    except RuntimeError:  # torchvision's word for files that are missing or incomplete
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
