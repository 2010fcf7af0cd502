"""From the bytes of an image file to the pixels of one box, by Pillow.

What torchvision's ImageFolder shows a network is what this shows: EXIF orientation is not applied, alpha is dropped,
colour profiles are ignored. Only what cannot be decoded whole is refused.
"""

import io
import warnings

import numpy as np
from PIL import Image

# Broken metadata says nothing about the pixels, and ImageNet has files with it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(TiffImagePlugin|JpegImagePlugin)")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused below, by name

MAX_PIXELS = 89_478_485  # Pillow's own mark for a suspicious image: a quarter of a GiB as RGB

_MODES = {1: "L", 3: "RGB"}


class BadImageError(ValueError):
    """An image that cannot be read or decoded; the message names the file and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.reason)


def read_size(data: bytes, name: str) -> tuple[int, int]:
    """Height and width, from the header alone.

    Raises:
        BadImageError: no image, or more than `MAX_PIXELS` pixels.
    """
    with _open(data, name) as image:
        return image.height, image.width


def decode_box(data: bytes, box: np.ndarray, out: np.ndarray, *, flip: bool, name: str) -> None:
    """Decode, crop, resample with antialiasing, and mirror if `flip`, into `out` (H, W, C) uint8 with C 1 or 3.

    `box` is left, top, right, bottom in pixels of the file's image; see `imgcls.data.crops`.

    Raises:
        BadImageError: a file that cannot be decoded whole.
    """
    with _open(data, name) as image:
        try:
            shrink = _draft(image, box, out)
            image.load()
            _resample(_plain(image, out.shape[2]), np.asarray(box) / shrink, out, flip=flip)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise BadImageError(name, f"cannot be decoded: {error}") from error


def decode_whole(data: bytes, channels: int, name: str) -> np.ndarray:
    """All pixels, (H, W, channels) uint8.

    Raises:
        BadImageError: a file that cannot be decoded whole.
    """
    with _open(data, name) as image:
        try:
            image.load()
            pixels = np.asarray(_plain(image, channels).convert(_MODES[channels]))
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise BadImageError(name, f"cannot be decoded: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def resample_box(pixels: np.ndarray, box: np.ndarray, out: np.ndarray, *, flip: bool) -> None:
    """The same crop as `decode_box` from pixels (H, W, C) uint8 that are already decoded."""
    left, top, right, bottom = np.asarray(box, np.float64)
    # Only the pixels that take part are made into an image: the box, and the filter's support around it.
    x0, x1 = _taking_part(left, right, out.shape[1], pixels.shape[1])
    y0, y1 = _taking_part(top, bottom, out.shape[0], pixels.shape[0])
    part = pixels[y0:y1, x0:x1, 0] if pixels.shape[2] == 1 else pixels[y0:y1, x0:x1]
    _resample(Image.fromarray(part), np.array([left - x0, top - y0, right - x0, bottom - y0]), out, flip=flip)


def _open(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        reason = "is empty" if not len(data) else "is not an image, or of a kind that Pillow does not know"
        raise BadImageError(name, reason) from None
    except Image.DecompressionBombError as error:
        raise BadImageError(name, f"is too large to be an honest image: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadImageError(name, f"cannot be opened: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(
            name, f"has {image.width}x{image.height} pixels, over the limit of {MAX_PIXELS}; make it smaller"
        )
    return image


def _draft(image: Image.Image, box: np.ndarray, out: np.ndarray) -> int:
    # libjpeg can decode at 1/2, 1/4 or 1/8 size for much less work; only where that still has the output's resolution.
    if image.format not in ("JPEG", "MPO"):
        return 1
    ratio = min((box[2] - box[0]) / out.shape[1], (box[3] - box[1]) / out.shape[0])
    shrink = next((s for s in (8, 4, 2) if s <= ratio and s <= min(image.size)), 1)
    mode = "L" if out.shape[2] == 1 else None  # luma alone is what a grayscale network needs
    if shrink == 1 and mode is None:
        return 1
    full = image.size
    image.draft(mode, (full[0] // shrink, full[1] // shrink))
    return shrink


def _plain(image: Image.Image, channels: int) -> Image.Image:
    # L stays L for a colour network: it is resampled once and copied to three channels at the end.
    if image.mode == "L" or image.mode == _MODES[channels]:
        return image
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would clip all but the darkest
        return Image.fromarray((np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("pixels are floating-point; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(_MODES[channels])


def _resample(image: Image.Image, box: np.ndarray, out: np.ndarray, *, flip: bool) -> None:
    rows, columns, _ = out.shape
    left, top, right, bottom = (float(edge) for edge in box)
    x0, x1, left, right = _inside(left, right, columns, image.width)
    y0, y1, top, bottom = _inside(top, bottom, rows, image.height)
    inner = out[y0:y1, x0:x1]
    if inner.shape[:2] != out.shape[:2]:
        out[:] = 0
    if inner.size:
        resized = image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        pixels = np.asarray(resized)
        inner[:] = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if flip:
        out[:] = out[:, ::-1].copy()


def _taking_part(low: float, high: float, num_out: int, num_in: int) -> tuple[int, int]:
    support = max((high - low) / num_out, 1) + 1
    return max(0, int(low - support)), min(num_in, int(high + support) + 1)


def _inside(low: float, high: float, num_out: int, num_in: int) -> tuple[int, int, float, float]:
    # The output pixels whose centres fall on the image, and the part of the box that they stand for.
    if low >= 0 and high <= num_in:
        return 0, num_out, low, high
    step = (high - low) / num_out
    first = max(0, int(np.ceil(-low / step - 0.5)))
    last = min(num_out, int(np.floor((num_in - low) / step - 0.5)) + 1)
    return first, max(first, last), max(0.0, low + first * step), min(float(num_in), low + last * step)
