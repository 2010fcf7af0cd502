"""The test protocols of the papers: which views of an image a network is shown, before their predictions are averaged.

A view is a box of the source image and the size it is resampled to, as in `imgcls.data.augment.crops`. Lengths are
those of the papers, for networks of 224 pixels, and follow the network's image size in proportion. A network of other
rectangles sees rectangles of its proportions where the papers have squares.

A new protocol is a subclass of `TestProtocol` and a file in conf/protocol.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import nn

from imgcls.config import ImageSize
from imgcls.data.augment import CenterCrop, Crop, box_of_resized, frames, resized_to_cover, scaled_side
from imgcls.data.loading import View
from imgcls.errors import did_you_mean
from imgcls.inference.fully_convolutional import fully_convolutional

AVERAGES = ("softmax", "logits")


@dataclasses.dataclass(frozen=True)
class TestProtocol(ABC):
    """The views of an image, and how the predictions of them are averaged.

    Args:
        flip: show the mirror image of each view too.
        average: what the mean over the views is taken of: `softmax` probabilities, or `logits`.

    Raises:
        ValueError: `average` is neither.
    """

    name: ClassVar[str]

    flip: bool = True
    average: str = "softmax"

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            hint = did_you_mean(self.average, AVERAGES)
            raise ValueError(f"protocol.average={self.average} is none of {', '.join(AVERAGES)}{hint}")

    @abstractmethod
    def views(self, height: int, width: int, *, image_size: ImageSize, crop: Crop) -> list[View]:
        """Return the views of an image of height x width, for a network of `image_size` that was validated on `crop`.

        Raises:
            ValueError: a view would be smaller than `image_size`.
        """

    def prepare(self, network: nn.Module) -> nn.Module:
        """Return the network that takes the views: the same one, unless views have other sizes than its own.

        Raises:
            ValueError: the network cannot take them.
        """
        return network

    def only_crop(self, crop: Crop) -> Crop | None:
        """Return the crop that is all that the network is shown of an image, if there is one: the loader cuts it out.

        Args:
            crop: the one that the network was validated on.
        """
        return None

    def full_name(self) -> str:
        """Return the name with the settings that differ from the defaults: `ten_crop-flip=False`."""
        name = self.name
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            value = tuple(value) if isinstance(value, list) else value
            if value != field.default:
                name += f"-{field.name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        return name


@dataclasses.dataclass(frozen=True)
class Center(TestProtocol):
    """The crop that the network was validated on: the central square, for most."""

    name = "center"

    flip: bool = False

    def views(self, height: int, width: int, *, image_size: ImageSize, crop: Crop) -> list[View]:
        sizes, draws = np.array([[height, width]]), np.zeros((1, crop.num_draws))
        left, top, right, bottom = crop.boxes(sizes, draws, image_size=image_size)[0]
        return [View(left, top, right, bottom, *image_size)]

    def only_crop(self, crop: Crop) -> Crop:
        return crop


@dataclasses.dataclass(frozen=True)
class TenCrop(TestProtocol):
    """The four corners and the centre, and each mirrored: Krizhevsky et al. 2012, section 4.1.

    Args:
        short_side: what the shorter side is resized to, for a network of 224 pixels; None takes that of the crop it was
            validated on.
        of_square: take the corners of the central square, which is all that section 2 of the paper keeps of an image;
            otherwise those of the whole image, as is done since.
    """

    name = "ten_crop"

    short_side: int | None = None
    of_square: bool = True

    def views(self, height: int, width: int, *, image_size: ImageSize, crop: Crop) -> list[View]:
        if self.short_side is None:
            own = crop if isinstance(crop, CenterCrop) else CenterCrop()
            short = scaled_side(own.short_side, own.at_image_size, image_size)
        else:
            short = _checked_side(self.short_side, image_size, "protocol.short_side")
        image = _ResizedImage(height, width, short, image_size)
        (top, left), kept = (image.place_frame(0.5), image.frame) if self.of_square else ((0, 0), image.sides)
        return [
            image.window(top + y, left + x, image_size, out=image_size) for y, x in corners_and_centre(kept, image_size)
        ]


@dataclasses.dataclass(frozen=True)
class GoogLeNet144(TestProtocol):
    """144 crops: 4 scales, 3 squares in each, 6 crops of each, and each mirrored. Szegedy et al. 2014, section 7.

    The squares are left, in the centre and right (of a portrait: top, centre, bottom); from each the four corners, the
    centre, and the square itself resized: from the source in one step, so that it is nearly the same at each scale.
    """

    name = "googlenet144"

    scales: Sequence[int] = (256, 288, 320, 352)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_scales(self.scales)

    def views(self, height: int, width: int, *, image_size: ImageSize, crop: Crop) -> list[View]:
        del crop
        views = []
        for scale in self.scales:
            short = _checked_side(scale, image_size, "protocol.scales")
            image = _ResizedImage(height, width, short, image_size)
            for place in (0.0, 0.5, 1.0):
                top, left = image.place_frame(place)
                views += [
                    image.window(top + y, left + x, image_size, out=image_size)
                    for y, x in corners_and_centre(image.frame, image_size)
                ]
                views.append(image.window(top, left, image.frame, out=image_size))
        return views


@dataclasses.dataclass(frozen=True)
class Dense(TestProtocol):
    """The whole image at several sizes, through the network made fully convolutional.

    Simonyan & Zisserman 2014, section 3.2: class scores averaged over the positions, softmax averaged over mirror
    images; section 4.2: and over scales. He et al. 2015, section 3.4, the same with scales 224, 256, 384, 480, 640.
    """

    name = "dense"

    scales: Sequence[int] = (256, 384, 512)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_scales(self.scales)

    def views(self, height: int, width: int, *, image_size: ImageSize, crop: Crop) -> list[View]:
        del crop
        shorts = [_checked_side(scale, image_size, "protocol.scales") for scale in self.scales]
        sizes = [_ResizedImage(height, width, short, image_size).sides for short in shorts]
        return [View(0.0, 0.0, float(width), float(height), rows, columns) for rows, columns in sizes]

    def prepare(self, network: nn.Module) -> nn.Module:
        return fully_convolutional(network)


class _ResizedImage:
    """An image of height x width, resized to just cover a frame: a square, or as `image_size`; of shorter side `short`.

    Attributes:
        frame, sides: height and width of the frame and of the resized image.
    """

    def __init__(self, height: int, width: int, short: int, image_size: ImageSize) -> None:
        self._source = np.array([[height, width]])
        frame = frames(np.array([short]), image_size)
        self._resized = resized_to_cover(self._source, frame)
        self.frame = ImageSize(*map(int, frame[0]))
        self.sides = ImageSize(*map(int, self._resized[0]))

    def place_frame(self, place: float) -> tuple[int, int]:
        """Return top and left of the frame at `place` along the side that exceeds it, from 0 to 1."""
        return round(place * (self.sides.height - self.frame.height)), round(
            place * (self.sides.width - self.frame.width)
        )

    def window(self, top: int, left: int, window: ImageSize, *, out: ImageSize) -> View:
        """Return a window of the resized image as a view of the source, of `out` pixels."""
        box = box_of_resized(self._source, self._resized, np.array([top]), np.array([left]), window)[0]
        left_edge, top_edge, right_edge, bottom_edge = box.tolist()
        return View(left_edge, top_edge, right_edge, bottom_edge, *out)


def corners_and_centre(image: ImageSize, window: ImageSize) -> list[tuple[int, int]]:
    """Return top and left of five windows in an image: the four corners, and the centre."""
    bottom, right = image.height - window.height, image.width - window.width
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]


def _checked_side(side: int, image_size: ImageSize, key: str) -> int:
    # Not scaled_side, which would show the whole image where the paper's length is too short for a crop.
    short = round(side * image_size.shorter / 224)
    if short < image_size.shorter:
        raise ValueError(f"{key} has {side}, which is smaller than the crop it is for; use 224 or more")
    return short


def _check_scales(scales: Sequence[int]) -> None:
    if not scales or min(scales) < 224:
        raise ValueError(f"protocol.scales={list(scales)}: give one or more lengths of 224 or more, as [256,384,512]")
