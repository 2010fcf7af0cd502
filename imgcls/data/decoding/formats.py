"""Which kinds of files are images here: by their content as Pillow sees it, and by their endings."""

import importlib.util
import io
import os
from collections.abc import Iterable, Mapping

from PIL import Image, UnidentifiedImageError, features

# What Pillow may open, whatever the file is called: it goes by the content, and its other readers run Ghostscript (EPS,
# PostScript), ask Windows to draw (WMF), or are seldom tried on broken files. MPO is opened as JPEG.
ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "HEIF": (".heic", ".heics", ".heif", ".heifs", ".hif"),
}
# What a format needs besides Pillow's own code, and how to get it.
_LIBRARIES = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
# A camera's raw file is a TIFF whose first image is a thumbnail: opened by content it would train on that.
RAW = (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")


def _missing() -> dict[str, str]:
    """Return what the formats that cannot be opened here need."""
    missing = {name: f"a Pillow with {library}" for name, library in _LIBRARIES.items() if not features.check(library)}
    if importlib.util.find_spec("pillow_heif") is None:
        return missing | {"HEIF": "pillow-heif"}
    import pillow_heif

    pillow_heif.register_heif_opener()
    return missing


_MISSING = _missing()
FORMATS = tuple(name for name in ENDINGS if name not in _MISSING)
EXTENSIONS = tuple(os.fsencode(ending) for name in FORMATS for ending in ENDINGS[name])
NEEDS = {ending: f"needs {need}" for name, need in _MISSING.items() for ending in ENDINGS[name]}
NEEDS |= dict.fromkeys(RAW, "a camera's raw file; save it as TIFF or JPEG")


def is_image(path: bytes) -> bool:
    """Return True if a file is an image: known by its ending, or opened by its content where that says nothing."""
    name = path.lower()
    if name.endswith(EXTENSIONS):
        return True
    if ending_of(path) in NEEDS or not os.path.isfile(path):
        return False
    try:
        with Image.open(os.fsdecode(path), formats=FORMATS):
            return True
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return False


def ending_of(path: bytes) -> str:
    """Return a file's ending in small letters, with the dot; empty if it has none."""
    return os.fsdecode(os.path.splitext(path)[1].lower())


def ending_of_content(data: bytes) -> str:
    """Return the ending that the bytes of an image should have: `.jpg`; empty for what cannot be opened."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return ENDINGS["JPEG" if image.format == "MPO" else str(image.format)][0]
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return ""


def format_of_ending(path: bytes) -> str | None:
    """Return the format that a file's ending stands for, or None if it says nothing."""
    ending = ending_of(path)
    return next((name for name, endings in ENDINGS.items() if ending in endings), None)


def describe_left_out(endings: Mapping[str, int]) -> str:
    """Return what was no image, by ending: `.heic: 12 files, needs pillow-heif; .txt: 1 file`."""
    return "; ".join(_left_out(ending, count) for ending, count in sorted(endings.items()))


def _left_out(ending: str, count: int) -> str:
    files = f"{ending or 'without an ending'}: {count:,} file{'s' * (count != 1)}"
    return f"{files}, {NEEDS[ending]}" if ending in NEEDS else files


def needs_anything(endings: Iterable[str]) -> bool:
    """Return True if one of the endings is that of an image which something more would open."""
    return any(ending in NEEDS for ending in endings)
