"""Images of noise, to measure a step without any data."""

import gzip
import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imgcls.config import ImageSize
from imgcls.data.sets.splits import ImageSet, image_set_of_arrays
from imgcls.environment import cache_folder, make_cache_folder

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


def _unpacked(dataset: Any, name: str, base: Path) -> Path | None:
    """Unpack a set's archives from below `base` into the cache folder, where they are all that is there; return that.

    The user's folder stays as it is: it may be read-only, or shared.

    Raises:
        ValueError: an archive is damaged.
    """
    from torchvision.datasets.utils import extract_archive

    # MNIST is four files in <root>/MNIST/raw, CIFAR one archive.
    names = [name for name, _ in dataset.resources] if hasattr(dataset, "resources") else [dataset.filename]
    inner = f"{dataset.__name__}/raw" if hasattr(dataset, "resources") else "."
    found = [folder for folder in (base / inner, base) if all((folder / name).is_file() for name in names)]
    if not found:
        return None
    files = [found[0] / name for name in names]
    stamps = [f"{os.path.realpath(file)} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    key = hashlib.sha256(os.fsencode("\0".join(stamps))).hexdigest()[:16]
    target = cache_folder() / "unpacked" / f"{name}-{key}"
    if target.is_dir():
        return target
    log.info("unpacking the archives of %s in %s into %s", name, found[0], target)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=make_cache_folder("unpacked")))
    try:
        for file in files:
            (unfinished / inner).mkdir(parents=True, exist_ok=True)
            try:
                extract_archive(str(file), str(unfinished / inner))
            except (gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError) as error:
                raise ValueError(f"data={name}: {file} is damaged ({error}); download it again") from None
        try:
            unfinished.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _open(dataset: Callable[..., Any], name: str, base: Path, *, train: bool, download: bool) -> Any:
    try:
        return dataset(str(base), train=train, download=False)
    except RuntimeError:  # torchvision's word for files that are missing or incomplete
        if unpacked := _unpacked(dataset, name, base):
            return dataset(str(unpacked), train=train, download=False)
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
