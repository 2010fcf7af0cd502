"""From the bytes of an image file to the pixels of one box, by Pillow.

What torchvision's ImageFolder shows a network is what this shows by default: EXIF orientation is not applied (but
Pillow turns a TIFF), alpha is dropped, colour profiles are ignored. `PixelRules` has the other choices. Only what
cannot be decoded whole is refused.
"""

import functools
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps

from imgcls.data.decoding import depth, jpeg
from imgcls.data.decoding.formats import FORMATS
from imgcls.data.decoding.native import MAX_PIXELS

# Broken metadata says nothing about the pixels, and ImageNet has files with it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(TiffImagePlugin|JpegImagePlugin)")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused below, by name
_MODES = {1: "L", 3: "RGB"}
_JPEG = ("JPEG", "MPO")
# How far the filters reach on either side, in pixels of the output, or of the image where the output is larger.
_REACHES = {"bilinear": 1, "bicubic": 2}
HEAD_OF_JPEG = 1 << 16  # where its EXIF data is, if it has any: a segment of 64 KB at most, among the first


@dataclass(frozen=True)
class PixelRules:
    """What a pixel of a file is to the network, where that is a choice.

    Args:
        alpha: drop shows the colours that transparency hides, white and black put the image on that.
        orientation: stored shows pixels as they are stored, apply turns them as the file's EXIF data says.
        bits: that whole numbers of more than 8 bits have; None: those that the brightest pixel of each file needs.
    """

    alpha: str = "drop"
    orientation: str = "stored"
    bits: int | None = None


AS_STORED = PixelRules()


class Traits(NamedTuple):
    """What the rules decide on: EXIF orientation, transparency, and the bits that pixels use; and the kind of file.

    `bits` is None of an image of 8 bits a channel, and of floats. `format` and `mode` are Pillow's names, `size` is
    width and height.
    """

    orientation: int
    transparent: bool
    bits: int | None
    format: str
    mode: str
    size: tuple[int, int]


def traits_of(data: bytes, name: str) -> Traits:
    """Return what a file has that `PixelRules` decide on; only deep images are decoded for it.

    Raises:
        BadImageError: it is no image.
    """
    with _open(data, name) as image, _naming(name, "cannot be decoded"):
        bits = depth.used_bits(image, data) if depth.is_deep(image) else None
        kind = "JPEG" if image.format in _JPEG else image.format or ""
        return Traits(orientation_of(image), image.has_transparency_data, bits, kind, image.mode, image.size)


class BadImageError(ValueError):
    """An image that cannot be read or decoded; the message names the file and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.reason)


def read_size(data: bytes, name: str, rules: PixelRules = AS_STORED) -> tuple[int, int]:
    """Return height and width, from the header alone; of an image that is turned, once it is.

    Raises:
        BadImageError: no image, or more than `MAX_PIXELS` pixels.
    """
    frame = jpeg.read_frame(data)
    turned = rules.orientation == "apply"
    if frame is not None and frame.height * frame.width <= MAX_PIXELS and not turned:
        return frame.height, frame.width
    with _open(data, name) as image:
        lies = turned and orientation_of(image) in (5, 6, 7, 8)
        return (image.width, image.height) if lies else (image.height, image.width)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an image that is not loaded: 1 is upright, as a TIFF is: Pillow turns it."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):  # Pillow would decode the PNG
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):  # broken metadata
        return 1
    return found if found in range(1, 9) else 1


def is_turned(data: bytes, rules: PixelRules, name: str) -> bool:
    """Return True if the rules turn this file's image."""
    if rules.orientation != "apply" or (data[:2] == b"\xff\xd8" and b"Exif\0\0" not in data[:HEAD_OF_JPEG]):
        return False
    with _open(data, name) as image:
        return orientation_of(image) != 1


def has_readable_header(head: bytes) -> bool:
    """Return True if a file that begins with `head` can be opened as an image."""
    try:
        with _open(head, ""):
            return True
    except BadImageError:
        return False


def has_end(head: bytes, tail: bytes) -> bool:
    """Return False if a file that begins with `head` and ends with `tail` is a JPEG without the marker of its end."""
    return head[:2] != b"\xff\xd8" or jpeg.END in tail


def decode_box(
    data: bytes,
    box: np.ndarray,
    out: np.ndarray,
    *,
    flip: bool,
    name: str,
    interpolation: str = "bilinear",
    draft: bool = False,
    rules: PixelRules = AS_STORED,
) -> None:
    """Decode, crop, resample with antialiasing, and mirror if `flip`, into `out` (H, W, C) uint8 with C 1 or 3.

    Args:
        box: left, top, right, bottom in pixels of the file's image; see `imgcls.data.augment`.
        interpolation: bilinear or bicubic.
        draft: decode a JPEG at a half, a quarter or an eighth of its size where that still has the output's
            resolution: faster, and other pixels than the native decoder's.

    Raises:
        BadImageError: a file that cannot be decoded whole.
    """
    if is_turned(data, rules, name):
        resample(load_whole(data, out.shape[2], name, rules), box, out, flip=flip, interpolation=interpolation)
        return
    with _open(_without_rows_below(data, box, out, draft=draft, interpolation=interpolation), name) as image:
        with _naming(name, "cannot be decoded"):
            factor = _set_up(image, data, box, out, draft=draft)
            image.decodermaxblock = len(data)  # in one go: a decoder that is fed in parts repeats work at each
            plain = _plain(_loaded(image, data, rules), out.shape[2], rules)
        resample(plain, np.asarray(box) / factor, out, flip=flip, interpolation=interpolation)


def decode_whole(data: bytes, channels: int, name: str, rules: PixelRules = AS_STORED) -> np.ndarray:
    """All pixels of an image, (H, W, C) uint8.

    Raises:
        BadImageError: a file that cannot be decoded whole.
    """
    return _pixels(load_whole(data, channels, name, rules), channels)


def pixels_of(image: Image.Image, channels: int, rules: PixelRules = AS_STORED) -> np.ndarray:
    """All pixels of an image of any mode, as files are decoded to: (H, W, C) uint8."""
    if depth.is_deep(image):
        image.load()  # what is no longer in a file has the modes of Pillow alone
        image = depth.load_8_bits(image, b"", rules.bits)
    if rules.orientation == "apply":
        image = ImageOps.exif_transpose(image)
    return _pixels(_plain(image, channels, rules), channels)


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    pixels = np.asarray(image.convert(_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def load_whole(data: bytes, channels: int, name: str, rules: PixelRules = AS_STORED) -> Image.Image:
    """Return an image as `decode_box` sees it where it drafts nothing, to be kept for `resample_loaded`.

    Raises:
        BadImageError: a file that cannot be decoded whole.
    """
    with _open(data, name) as image:
        with _naming(name, "cannot be decoded"):
            if channels == 1 and image.format in _JPEG and not jpeg.is_lossless(data):
                image.draft("L", image.size)
            turned = rules.orientation == "apply" and orientation_of(image) != 1
            loaded = _loaded(image, data, rules)
            plain = _plain(ImageOps.exif_transpose(loaded) if turned else loaded, channels, rules).copy()
        plain.format = None if turned else image.format  # what is turned is never drafted
        frame = None if turned else jpeg.read_frame(data)
        plain.info = {} if frame is None else {"block_rows": frame.block_rows}
    return plain


def _loaded(image: ImageFile.ImageFile, data: bytes, rules: PixelRules) -> Image.Image:
    """Return the image of a file with its pixels, of 8 bits a channel."""
    if not depth.is_deep(image):
        image.load()
        return image
    orientation = orientation_of(image)
    reduced = depth.load_8_bits(image, data, rules.bits)
    reduced.getexif()[ExifTags.Base.Orientation] = orientation
    return reduced


def resample_loaded(
    image: Image.Image, box: np.ndarray, out: np.ndarray, *, flip: bool, interpolation: str = "bilinear"
) -> None:
    """Write the pixels of `decode_box`, from what `load_whole` gave, where `decode_box` drafts nothing."""
    if block_rows := image.info.get("block_rows"):
        # Pillow 13 chooses the order of its two passes, and so how they round, by the height of the image.
        rows = _rows_needed(box, out, image.size, draft=False, interpolation=interpolation)
        if (height := jpeg.height_of_upper_rows(image.height, block_rows, rows)) < image.height:
            image = image.crop((0, 0, image.width, height))
    resample(image, box, out, flip=flip, interpolation=interpolation)


def shrink(image: Image.Image, box: np.ndarray, out: np.ndarray) -> int:
    """At what part of its size `decode_box` drafts this image for this box: 1, or a half, a quarter, an eighth."""
    return _shrink(box, out, image.size) if image.format in _JPEG else 1


def resample(image: Image.Image, box: np.ndarray, out: np.ndarray, *, flip: bool, interpolation: str) -> None:
    """Crop, resample with antialiasing, and mirror if `flip`, into `out` (H, W, C) uint8; black beyond the edges."""
    rows, columns, _ = out.shape
    left, top, right, bottom = (float(edge) for edge in box)
    x0, x1, left, right = _inside(left, right, columns, image.width)
    y0, y1, top, bottom = _inside(top, bottom, rows, image.height)
    inner = out[y0:y1, columns - x1 : columns - x0] if flip else out[y0:y1, x0:x1]
    if inner.shape[:2] != out.shape[:2]:
        out[:] = 0
    if inner.size:
        how = Image.Resampling[interpolation.upper()]
        resized = image.resize((x1 - x0, y1 - y0), how, box=(left, top, right, bottom))
        if flip:
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(resized)
        inner[:] = pixels if pixels.ndim == 3 else pixels[:, :, None]


def resample_box(
    pixels: np.ndarray, box: np.ndarray, out: np.ndarray, *, flip: bool, interpolation: str = "bilinear"
) -> None:
    """Write the crop of `decode_box`, from pixels (H, W, C) uint8 that are decoded already."""
    left, top, right, bottom = np.asarray(box, np.float64)
    # Only the pixels that take part are made into an image: the box, and the filter's support around it.
    x0, x1 = _taking_part(left, right, out.shape[1], pixels.shape[1], interpolation)
    y0, y1 = _taking_part(top, bottom, out.shape[0], pixels.shape[0], interpolation)
    part = pixels[y0:y1, x0:x1, 0] if pixels.shape[2] == 1 else pixels[y0:y1, x0:x1]
    box = np.array([left - x0, top - y0, right - x0, bottom - y0])
    resample(Image.fromarray(part), box, out, flip=flip, interpolation=interpolation)


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    with _naming(name, "cannot be opened"):
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.UnidentifiedImageError:
            reason = "is empty" if not len(data) else f"is not an image of a kind that is read: {', '.join(FORMATS)}"
            raise BadImageError(name, reason) from None
        except Image.DecompressionBombError as error:
            raise BadImageError(name, f"is too large to be an honest image: {error}") from None
    assert isinstance(image, ImageFile.ImageFile)
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(
            name, f"has {image.width}x{image.height} pixels, over the limit of {MAX_PIXELS}; make it smaller"
        )
    if image.format in _JPEG and (scans := jpeg.num_scans(data)) > jpeg.MAX_SCANS:
        raise BadImageError(name, f"has {scans} scans, over the limit of {jpeg.MAX_SCANS}; save it again")
    return image


@contextmanager
def _naming(name: str, what: str) -> Iterator[None]:
    # Pillow's readers trip over broken files with errors of any kind: a TIFF's with TypeError, for one.
    try:
        yield
    except (BadImageError, MemoryError):
        raise
    except Exception as error:
        raise BadImageError(name, f"{what}: {error}") from error


def _without_rows_below(data: bytes, box: np.ndarray, out: np.ndarray, *, draft: bool, interpolation: str) -> bytes:
    # What is below the box, and beyond the antialiasing's reach, need not be decoded.
    frame = jpeg.read_frame(data)
    if frame is None or frame.height * frame.width > MAX_PIXELS:
        return data
    rows = _rows_needed(box, out, (frame.width, frame.height), draft=draft, interpolation=interpolation)
    return jpeg.upper_rows(data, frame, rows)


def _rows_needed(box: np.ndarray, out: np.ndarray, size: tuple[int, int], *, draft: bool, interpolation: str) -> int:
    reach = _support(box[1], box[3], out.shape[0], interpolation) + 1 + 2 * (_shrink(box, out, size) if draft else 1)
    return int(np.ceil(max(box[3], 1) + reach))


def _shrink(box: np.ndarray, out: np.ndarray, size: tuple[int, int]) -> int:
    # libjpeg can decode at 1/2, 1/4 or 1/8 size for much less work; only where that still has the output's resolution.
    ratio = min((box[2] - box[0]) / out.shape[1], (box[3] - box[1]) / out.shape[0])
    return next((s for s in (8, 4, 2) if s <= ratio and s <= min(size)), 1)


def _set_up(image: Image.Image, data: bytes, box: np.ndarray, out: np.ndarray, *, draft: bool) -> int:
    # Tell libjpeg at which size to decode, and luma alone for a grayscale network; return how much smaller that is.
    mode = "L" if out.shape[2] == 1 else None
    factor = shrink(image, box, out) if draft else 1
    if image.format not in _JPEG or (factor == 1 and mode is None) or jpeg.is_lossless(data):
        return 1
    image.draft(mode, (image.width // factor, image.height // factor))
    return factor


def _plain(image: Image.Image, channels: int, rules: PixelRules) -> Image.Image:
    if rules.alpha != "drop" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, rules.alpha), image)
    # L stays L for a colour network: it is resampled once and copied to three channels at the end.
    if image.mode == "L" or image.mode == _MODES[channels]:
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "LAB":  # which Pillow's convert does not take
        image = ImageCms.applyTransform(image, _lab_to_rgb()) or image
    return image.convert(_MODES[channels])


@functools.cache
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, rgb, "LAB", "RGB")


def _support(low: float, high: float, num_out: int, interpolation: str) -> float:
    return _REACHES[interpolation] * max((high - low) / num_out, 1)


def _taking_part(low: float, high: float, num_out: int, num_in: int, interpolation: str) -> tuple[int, int]:
    support = _support(low, high, num_out, interpolation) + 1
    return max(0, int(low - support)), min(num_in, int(high + support) + 1)


def _inside(low: float, high: float, num_out: int, num_in: int) -> tuple[int, int, float, float]:
    # The output pixels whose centres fall on the image, and the part of the box that they stand for.
    if low >= 0 and high <= num_in:
        return 0, num_out, low, high
    step = (high - low) / num_out
    first = max(0, int(np.ceil(-low / step - 0.5)))
    last = min(num_out, int(np.floor((num_in - low) / step - 0.5)) + 1)
    return first, max(first, last), max(0.0, low + first * step), min(float(num_in), low + last * step)
