"""Several views of each image: it is decoded once, whole, and each view is resampled from it."""

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from imgcls.data.decoding import BadImageError, resample_box


class View(NamedTuple):
    """A box of the source image, in its pixels, and the rows and columns it is resampled to."""

    left: float
    top: float
    right: float
    bottom: float
    rows: int
    columns: int


class ImageViews(NamedTuple):
    """An image by its position in the split, and its views, each (H, W, C) uint8."""

    index: int
    views: list[np.ndarray]


class HasPixels(Protocol):
    """Images by index, as a `Split` has them."""

    def pixels(self, index: int, channels: int) -> np.ndarray:
        """Return image `index` whole: (H, W, C) uint8."""
        ...


def view_images(
    split: HasPixels,
    indices: Sequence[int],
    plan: Callable[[int, int], list[View]],
    *,
    channels: int,
    num_threads: int,
    interpolation: str = "bilinear",
    ahead: int = 4,
    on_bad: Callable[[int, BadImageError], None] | None = None,
) -> Iterator[ImageViews]:
    """Decode images `indices` of `split` in order, in threads, and show the views that `plan(height, width)` asks for.

    Args:
        interpolation: bilinear or bicubic.
        ahead: images a thread that are decoded before they are asked for.
        on_bad: called with the position of an image that cannot be decoded; the image is then left out.

    Raises:
        BadImageError: an image that cannot be decoded, where there is no `on_bad`.
    """

    def show(index: int) -> list[np.ndarray]:
        pixels = split.pixels(index, channels)
        shown = []
        for view in plan(pixels.shape[0], pixels.shape[1]):
            out = np.empty((view.rows, view.columns, channels), np.uint8)
            resample_box(pixels, np.array(view[:4]), out, flip=False, interpolation=interpolation)
            shown.append(out)
        return shown

    coming: collections.deque[tuple[int, Future[list[np.ndarray]]]] = collections.deque()
    rest = iter(indices)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="imgcls-views") as pool:
        try:
            while True:
                while len(coming) < num_threads * ahead and (index := next(rest, None)) is not None:
                    coming.append((int(index), pool.submit(show, int(index))))
                if not coming:
                    return
                index, future = coming.popleft()
                try:
                    views = future.result()
                except BadImageError as error:
                    if on_bad is None:
                        raise
                    on_bad(index, error)
                    continue
                yield ImageViews(index, views)
        finally:
            for _, future in coming:
                future.cancel()
