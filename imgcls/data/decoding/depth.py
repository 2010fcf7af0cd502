"""Pixels of more than 8 bits to 8: one rule for whole numbers, one for floats, none of which hides a picture.

Many cameras and scanners write 10 or 12 bits into 16. Taking the upper 8 of all 16, as Pillow does, leaves 16 grey
levels of such a picture, or none; so the bits that are used are found, or named by `data.bits`.
"""

import io
import sys

import numpy as np
from PIL import Image, ImageFile

from imgcls.data.decoding.formats import FORMATS

DEPTHS = (8, 10, 12, 14, 16, 24, 32)


def is_deep(image: Image.Image) -> bool:
    """Return True if the file's pixels have more than 8 bits, which Pillow keeps or, in colour, cuts to the upper 8."""
    return image.mode[0] in "IF" or _deep_rawmode(image) is not None


def load_8_bits(image: Image.Image, data: bytes, bits: int | None) -> Image.Image:
    """Return an image of 8 bits a channel, as L, LA, RGB or RGBA, of a file `data` that `is_deep`.

    Whole numbers are divided by 2**(bits - 8). Where `bits` is None they are the fewest of 8, 10, 12, 14, 16 (24, 32)
    that hold the file's brightest pixel. Floats of 0 to 1 are multiplied by 255, larger ones taken as whole numbers.

    Raises:
        ValueError: floats that are negative or not finite.
    """
    values = _values(image, data)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or values.min(initial=0) < 0:
            raise ValueError("floating-point pixels are negative or not finite; save it with 8 or 16 bits")
        if bits is None and values.max(initial=0) <= 1:
            return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if values.ndim == 3 and values.shape[2] in (2, 4):  # transparency may have another depth
        colours, alpha = _reduced(values[..., :-1], bits), _reduced(values[..., -1:], 16)
        return Image.fromarray(np.concatenate([colours, alpha], axis=2), {2: "LA", 4: "RGBA"}[values.shape[2]])
    return Image.fromarray(_reduced(values, bits))


def used_bits(image: Image.Image, data: bytes) -> int | None:
    """Return how many bits the brightest pixel needs of a file that `is_deep`; None if it holds floats."""
    values = _values(image, data)
    if values.dtype.kind == "f":
        return None
    return _bits_of(values[..., :-1] if values.ndim == 3 and values.shape[2] in (2, 4) else values)


def _bits_of(values: np.ndarray) -> int:
    brightest = int(values.max(initial=0))
    return next(depth for depth in DEPTHS if brightest < 1 << depth)


def _reduced(values: np.ndarray, bits: int | None) -> np.ndarray:
    bits = bits or _bits_of(values)
    return (np.clip(values, 0, (1 << bits) - 1).astype(np.int64) >> (bits - 8)).astype(np.uint8)


def _values(image: Image.Image, data: bytes) -> np.ndarray:
    """Return the pixels of a deep file as they are stored: (H, W) or (H, W, C)."""
    rawmode = _deep_rawmode(image)
    if rawmode is None:
        return np.asarray(image)
    # Pillow has no colour image of 16 bits, but takes the upper 8 of each number, by the order of its two bytes. With
    # the bytes named the other way round it takes the lower 8.
    if rawmode.startswith("LA;16"):  # which it can read whole, as four bytes
        four = _read_as(data, "RGBA").astype(np.uint16)
        return four[..., 0::2] << 8 | four[..., 1::2]
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[rawmode[-1]]
    lower = _read_as(data, rawmode[:-1] + other)
    return np.asarray(image).astype(np.uint16) << 8 | lower


def _read_as(data: bytes, rawmode: str) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        assert isinstance(image, ImageFile.ImageFile)
        image.tile = [
            tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *(tile.args or ())[1:]))
            for tile in image.tile
        ]
        return np.asarray(image)


def _deep_rawmode(image: Image.Image) -> str | None:
    """Return how the bytes of a colour file with 16 bits a channel are laid out; None of all others."""
    if image.mode not in ("RGB", "RGBA") or not getattr(image, "tile", None):
        return None
    args = image.tile[0].args  # type: ignore[attr-defined]
    rawmode = args if isinstance(args, str) else args[0] if args else None
    known = ("RGB;16", "RGBA;16", "LA;16")  # not premultiplied ones, RGBa, of which nothing is known here
    return rawmode if isinstance(rawmode, str) and rawmode.startswith(known) else None
