"""Which part of each image the network sees: each paper's crop, planned as boxes before anything is decoded.

A crop turns image sizes and uniform numbers into boxes in source pixels, so that a decoder can skip the rest of the
file. A box means what Pillow's `resize(size, box=box)` means: it is resampled to the output with
antialiasing, and pixels beyond its edge but inside the image take part. Resize-then-crop is such a box too. What a box
covers outside the image is black.

The papers crop squares. For another rectangle "resize the shorter side to 256, crop 224" means: resize in the image's
own proportions until it just covers a rectangle of 256/224 of the output's sides, then crop.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from imgcls.config import ImageSize


class Crop(Protocol):
    """Plans boxes: `num_draws` uniform numbers for each image decide them."""

    @property
    def num_draws(self) -> int: ...

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: ImageSize) -> np.ndarray:
        """Return boxes (B, 4), left, top, right, bottom, of sizes (B, 2), height, width, by draws (B, num_draws)."""
        ...


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and aspect ratio, at a random place.

    Szegedy et al. 2014, section 6: 8 % to 100 % of the area, aspect ratio 3/4 to 4/3. Ten attempts to fit into the
    image, then the largest central box within the aspect range, as torchvision does.

    Raises:
        ValueError: a range is not positive and ascending, or an area above 1.
    """

    area: Sequence[float] = (0.08, 1.0)
    aspect: Sequence[float] = (3 / 4, 4 / 3)

    attempts = 10

    def __post_init__(self) -> None:
        _check_range("area", self.area)
        _check_range("aspect", self.aspect)
        if self.area[1] > 1:
            raise ValueError(f"area={list(self.area)} exceeds the whole image; use a range within 0..1, as [0.08, 1.0]")

    @property
    def num_draws(self) -> int:
        return 2 * self.attempts + 2

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: ImageSize) -> np.ndarray:
        height, width = _columns(sizes)
        tries = draws[:, : 2 * self.attempts].reshape(-1, self.attempts, 2)
        area = (self.area[0] + (self.area[1] - self.area[0]) * tries[..., 0]) * (height * width)[:, None]
        low, high = np.log(self.aspect[0]), np.log(self.aspect[1])
        aspect = np.exp(low + (high - low) * tries[..., 1])  # uniform in the logarithm: 3/4 is as likely as 4/3
        wide = np.rint(np.sqrt(area * aspect))
        tall = np.rint(np.sqrt(area / aspect))
        fits = (wide > 0) & (wide <= width[:, None]) & (tall > 0) & (tall <= height[:, None])
        first = fits.argmax(axis=1)[:, None]
        wide = np.take_along_axis(wide, first, axis=1)[:, 0]
        tall = np.take_along_axis(tall, first, axis=1)[:, 0]
        top = np.floor(draws[:, -2] * (height - tall + 1))
        left = np.floor(draws[:, -1] * (width - wide + 1))

        # No attempt fitted: an image narrower or wider than any box.
        shape = width / height
        full_wide = np.where(shape > self.aspect[1], np.rint(height * self.aspect[1]), width)
        full_tall = np.where(shape < self.aspect[0], np.rint(width / self.aspect[0]), height)
        none = ~fits.any(axis=1)
        wide = np.where(none, np.maximum(full_wide, 1), wide)
        tall = np.where(none, np.maximum(full_tall, 1), tall)
        top = np.where(none, np.floor((height - tall) / 2), top)
        left = np.where(none, np.floor((width - wide) / 2), left)
        return np.stack([left, top, left + wide, top + tall], axis=1)


@dataclasses.dataclass(frozen=True)
class ScaleJitterCrop:
    """Resize the shorter side to a random length, then crop at a random place.

    Simonyan & Zisserman 2014, section 3.1: 256 to 512 for a crop of 224; He et al. 2015, section 3.4: 256 to 480. The
    lengths are for a square of `at_image_size` and follow the image size in proportion.

    Raises:
        ValueError: a range that is not ascending, or a side shorter than the crop.
    """

    short_side: Sequence[int] = (256, 480)
    at_image_size: int = 224

    num_draws = 3

    def __post_init__(self) -> None:
        _check_range("short_side", self.short_side)
        _check_side("short_side", self.short_side[0], self.at_image_size)

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: ImageSize) -> np.ndarray:
        low, high = (scaled_side(side, self.at_image_size, image_size) for side in self.short_side)
        short = low + np.floor(draws[:, 0] * (high - low + 1))
        resized = resized_to_cover(sizes, frames(short, image_size))
        top = np.floor(draws[:, 1] * (resized[:, 0] - image_size.height + 1))
        left = np.floor(draws[:, 2] * (resized[:, 1] - image_size.width + 1))
        return box_of_resized(sizes, resized, top, left, image_size)


@dataclasses.dataclass(frozen=True)
class ResizeRandomCrop:
    """Resize the shorter side to a fixed length, then crop at a random place.

    Krizhevsky et al. 2012, section 4.1: 256, and a crop of 224 (227 by the arithmetic of its first layer), from the
    central square, which is all that section 2 keeps of an image: `of_square`. Howard 2013, section 2.1, takes it from
    the whole image.

    Raises:
        ValueError: a side shorter than the crop.
    """

    short_side: int = 256
    at_image_size: int = 224
    of_square: bool = False

    num_draws = 2

    def __post_init__(self) -> None:
        _check_side("short_side", self.short_side, self.at_image_size)

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: ImageSize) -> np.ndarray:
        frame = frames(np.full(len(sizes), scaled_side(self.short_side, self.at_image_size, image_size)), image_size)
        resized = resized_to_cover(sizes, frame)
        kept = frame if self.of_square else resized
        before = np.rint((resized - kept) / 2)
        top = before[:, 0] + np.floor(draws[:, 0] * (kept[:, 0] - image_size.height + 1))
        left = before[:, 1] + np.floor(draws[:, 1] * (kept[:, 1] - image_size.width + 1))
        return box_of_resized(sizes, resized, top, left, image_size)


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """Resize the shorter side, then crop the centre: the single-crop test of most papers.

    Krizhevsky et al. 2012, section 2: 256. The length is for a square of `at_image_size` and follows in proportion.

    Raises:
        ValueError: a side shorter than the crop.
    """

    short_side: int = 256
    at_image_size: int = 224

    num_draws = 0

    def __post_init__(self) -> None:
        _check_side("short_side", self.short_side, self.at_image_size)

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: ImageSize) -> np.ndarray:
        short = np.full(len(sizes), self.short_side_of(image_size))
        resized = resized_to_cover(sizes, frames(short, image_size))
        top = np.rint((resized[:, 0] - image_size.height) / 2)
        left = np.rint((resized[:, 1] - image_size.width) / 2)
        return box_of_resized(sizes, resized, top, left, image_size)

    def short_side_of(self, image_size: ImageSize) -> int:
        """Return the pixels of the shorter side, once resized, of an image for a crop of `image_size`."""
        return scaled_side(self.short_side, self.at_image_size, image_size)


@dataclasses.dataclass(frozen=True)
class PadCrop:
    """Pad with black on every side, then crop at a random place.

    He et al. 2015, section 4.2 (CIFAR-10): padding 4. An image of another size is first resized to just cover the
    image size; `padding` counts output pixels.

    Raises:
        ValueError: a negative padding.
    """

    padding: int = 4

    num_draws = 2

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding={self.padding} is negative; use 0 or more pixels, as 4 for CIFAR")

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: ImageSize) -> np.ndarray:
        resized = resized_to_cover(sizes, np.tile(image_size, (len(sizes), 1)))
        room = resized + 2 * self.padding - np.array(image_size) + 1
        top = np.floor(draws[:, 0] * room[:, 0]) - self.padding
        left = np.floor(draws[:, 1] * room[:, 1]) - self.padding
        return box_of_resized(sizes, resized, top, left, image_size)


@dataclasses.dataclass(frozen=True)
class Pad:
    """The whole image, inside a black border of `padding` output pixels.

    LeCun et al. 1998, section II.B: 28x28 digits in the middle of a 32x32 field. Another size is squashed to fit.

    Raises:
        ValueError: a negative padding, or one that leaves no room for the image.
    """

    padding: int = 2

    num_draws = 0

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding={self.padding} is negative; use 0 or more pixels, as 2 for digits in 32x32")

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: ImageSize) -> np.ndarray:
        rows, columns = (side - 2 * self.padding for side in image_size)
        if min(rows, columns) < 1:
            raise ValueError(
                f"padding={self.padding} leaves nothing of an image of {image_size} pixels; use a smaller padding"
            )
        height, width = _columns(sizes)
        across, down = self.padding * width / columns, self.padding * height / rows
        return np.stack([-across, -down, width + across, height + down], axis=1)


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """The whole image in its own proportions, in the middle of a black rectangle of the output's."""

    num_draws = 0

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: ImageSize) -> np.ndarray:
        height, width = _columns(sizes)
        tall = np.maximum(height, width * image_size.height / image_size.width)
        wide = np.maximum(width, height * image_size.width / image_size.height)
        left, top = (width - wide) / 2, (height - tall) / 2
        return np.stack([left, top, left + wide, top + tall], axis=1)


@dataclasses.dataclass(frozen=True)
class Whole:
    """The whole image, squashed to the output's shape."""

    num_draws = 0

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: ImageSize) -> np.ndarray:
        height, width = _columns(sizes)
        zero = np.zeros_like(height)
        return np.stack([zero, zero, width, height], axis=1)


def _columns(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)


def scaled_side(side: int, at_image_size: int, image_size: ImageSize) -> int:
    """Return a length that a paper gives for crops of `at_image_size`, for the shorter side of `image_size`.

    It is never below that side.
    """
    return max(image_size.shorter, round(side * image_size.shorter / at_image_size))


def frames(short: np.ndarray, image_size: ImageSize) -> np.ndarray:
    """Return heights and widths (B, 2) in the proportions of `image_size`, whose shorter sides are `short` (B,)."""
    return np.rint(np.asarray(short)[:, None] * np.array(image_size) / image_size.shorter)


def resized_to_cover(sizes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return heights and widths (B, 2) of images of `sizes` (B, 2) once each just covers its `frame` (B, 2).

    In a square frame the shorter side gets its length. The other side is cut to an integer, as torchvision's Resize
    does.
    """
    height, width = _columns(sizes)
    rows, columns = frame[:, 0], frame[:, 1]
    by_height = rows * width >= columns * height
    return np.stack(
        [
            np.where(by_height, rows, np.floor(columns * height / width)),
            np.where(by_height, np.floor(rows * width / height), columns),
        ],
        axis=1,
    )


def box_of_resized(
    sizes: np.ndarray, resized: np.ndarray, top: np.ndarray, left: np.ndarray, window: tuple[int, int]
) -> np.ndarray:
    """Return the boxes (B, 4), in source pixels, of windows of `window`, height and width, in resized images.

    Args:
        sizes, resized: heights and widths (B, 2) of the source and once resized.
        top, left: (B,) each, in pixels of the resized image.
    """
    height, width = _columns(sizes)
    down, across = resized[:, 0], resized[:, 1]
    rows, columns = window
    # Multiplied first, the far edge of the resized image is exactly the image's own, and no box exceeds it by rounding.
    return np.stack(
        [
            left * width / across,
            top * height / down,
            (left + columns) * width / across,
            (top + rows) * height / down,
        ],
        axis=1,
    )


def _check_range(name: str, pair: Sequence[float]) -> None:
    if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
        raise ValueError(f"{name}={list(pair)} is not a range; give two positive numbers, the smaller first")


def _check_side(name: str, side: int, at_image_size: int) -> None:
    if side < at_image_size:
        raise ValueError(f"{name}={side} is shorter than the crop of {at_image_size}; use at least {at_image_size}")
