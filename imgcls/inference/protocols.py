"""The test protocols of the papers: which views of an image a network is shown, before their predictions are averaged.

A view is a box of the source image and the size it is resampled to, as in `imgcls.data.crops`. Lengths are those of the
papers, for networks of 224 pixels, and follow the network's own image size in proportion.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from imgcls.data.augment import CenterCrop, Crop
from imgcls.data.loading import View
from imgcls.errors import did_you_mean

PROTOCOL_NAMES = {"Center": "center", "TenCrop": "ten_crop", "Dense": "dense", "GoogLeNet144": "googlenet144"}


def protocol_name(protocol: Any) -> str:
    """`ten_crop`, with what differs from its defaults: `ten_crop-flip=False`."""
    name = PROTOCOL_NAMES[type(protocol).__name__]
    for field in dataclasses.fields(protocol):
        value = getattr(protocol, field.name)
        value = tuple(value) if isinstance(value, list) else value
        if value != field.default:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            name += f"-{field.name}={text}"
    return name


AVERAGES = ("softmax", "logits")
RESNET_SCALES = (224, 256, 384, 480, 640)  # He et al. 2015, section 3.4


class TestProtocol(Protocol):
    """What an evaluation asks of a protocol."""

    @property
    def flip(self) -> bool:
        """Whether each view is shown mirrored too."""
        ...

    @property
    def average(self) -> str:
        """Of what the mean over the views is taken: `softmax` probabilities, or `logits`."""
        ...

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        """The views of an image of height x width, for a network of `image_size` that was validated on `crop`."""
        ...


@dataclasses.dataclass(frozen=True)
class Center:
    """The crop that the network was validated on: the central square, for most."""

    flip: bool = False
    average: str = "softmax"

    def __post_init__(self) -> None:
        _check(self)

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        left, top, right, bottom = crop.boxes(
            np.array([[height, width]]), np.zeros((1, crop.num_draws)), image_size=image_size
        )[0]
        return [View(left, top, right, bottom, image_size, image_size)]


@dataclasses.dataclass(frozen=True)
class TenCrop:
    """The four corners and the centre, and each mirrored: Krizhevsky et al. 2012, section 4.1.

    Args:
        short_side: what the shorter side is resized to, for a network of 224 pixels; None takes that of the crop it was
            validated on.
        of_square: take the corners of the central square, which is all that section 2 of the paper keeps of an image;
            otherwise those of the whole image, as is done since.
    """

    flip: bool = True
    average: str = "softmax"
    short_side: int | None = None
    of_square: bool = True

    def __post_init__(self) -> None:
        _check(self)

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        if self.short_side is None:
            own = crop if isinstance(crop, CenterCrop) else CenterCrop()
            short = max(image_size, round(own.short_side * image_size / own.at_image_size))
        else:
            short = _proportional(self.short_side, image_size, "protocol.short_side")
        rows, columns = resized(height, width, short)
        top, left = (round((rows - short) / 2), round((columns - short) / 2)) if self.of_square else (0, 0)
        down, across = (short, short) if self.of_square else (rows, columns)
        return [
            _window((height, width), (rows, columns), top + y, left + x, image_size, out=image_size)
            for y, x in corners_and_centre(down, across, image_size)
        ]


@dataclasses.dataclass(frozen=True)
class GoogLeNet144:
    """144 crops: 4 scales, 3 squares in each, 6 crops of each, and each mirrored. Szegedy et al. 2014, section 7.

    The squares lie left, in the centre and right (of a portrait: top, centre, bottom); from each the four corners, the
    centre, and the square itself resized: from the source in one step, so that it is nearly the same at each scale.
    """

    flip: bool = True
    average: str = "softmax"
    scales: Sequence[int] = (256, 288, 320, 352)

    def __post_init__(self) -> None:
        _check(self)
        _check_scales(self.scales)

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        del crop
        found = []
        for scale in self.scales:
            short = _proportional(scale, image_size, "protocol.scales")
            size, whole = (height, width), resized(height, width, short)
            for place in (0.0, 0.5, 1.0):
                top, left = (round(place * (side - short)) for side in whole)
                found += [
                    _window(size, whole, top + y, left + x, image_size, out=image_size)
                    for y, x in corners_and_centre(short, short, image_size)
                ]
                found.append(_window(size, whole, top, left, short, out=image_size))
        return found


@dataclasses.dataclass(frozen=True)
class Dense:
    """The whole image at several sizes, through the network made fully convolutional.

    Simonyan & Zisserman 2014, section 3.2: class scores averaged over the positions, softmax averaged over mirror
    images; section 4.2: and over scales. He et al. 2015, section 3.4, the same with scales 224, 256, 384, 480, 640.
    """

    flip: bool = True
    average: str = "softmax"
    scales: Sequence[int] = (256, 384, 512)

    def __post_init__(self) -> None:
        _check(self)
        _check_scales(self.scales)

    def views(self, height: int, width: int, *, image_size: int, crop: Crop) -> list[View]:
        del crop
        sizes = [resized(height, width, _proportional(scale, image_size, "protocol.scales")) for scale in self.scales]
        return [View(0.0, 0.0, float(width), float(height), rows, columns) for rows, columns in sizes]


def resized(height: int, width: int, short: int) -> tuple[int, int]:
    """Height and width once the shorter side is `short`; the longer is cut to an integer, as torchvision's Resize."""
    return (short, short * width // height) if height <= width else (short * height // width, short)


def corners_and_centre(down: int, across: int, size: int) -> list[tuple[int, int]]:
    """Top and left of five windows of `size` in down x across: the corners from the top left on, and the centre."""
    bottom, right = down - size, across - size
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]


def _window(size: tuple[int, int], whole: tuple[int, int], top: int, left: int, side: int, *, out: int) -> View:
    # A square of the resized image, as a box of the source.
    height, width = size
    down, across = whole
    return View(
        left * width / across,
        top * height / down,
        (left + side) * width / across,
        (top + side) * height / down,
        out,
        out,
    )


def _proportional(scale: int, image_size: int, key: str) -> int:
    short = round(scale * image_size / 224)
    if short < image_size:
        raise ValueError(f"{key} has {scale}, which is smaller than the crop it is for; use 224 or more")
    return short


def _check(protocol: Any) -> None:
    if protocol.average not in AVERAGES:
        nearest = did_you_mean(protocol.average, AVERAGES)
        raise ValueError(f"protocol.average={protocol.average} is none of {', '.join(AVERAGES)}{nearest}")


def _check_scales(scales: Sequence[int]) -> None:
    if not scales or min(scales) < 224:
        raise ValueError(f"protocol.scales={list(scales)}: give one or more lengths of 224 or more, as [256,384,512]")
