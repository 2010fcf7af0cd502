"""Which kinds of files are images here: by their content as Pillow sees it, and by their endings."""

import importlib.util
import io
import os
from collections.abc import Iterable, Mapping

from PIL import Image, features

# What Pillow may open, in this order, whatever the file is called: it goes by the content. Its other readers run
# Ghostscript (EPS, PostScript), ask Windows to draw (WMF), need other packages, or are of formats that nobody has.
# MPO is opened as JPEG. An ending that files of other kinds have too (.rgb, .bw) is not listed: the content decides.
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
    "PSD": (".psd",),
    "DDS": (".dds",),
    "ICO": (".ico",),
    "ICNS": (".icns",),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "SUN": (".ras",),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
    "DIB": (".dib",),
    "PCX": (".pcx",),
    "TGA": (".tga",),
}
# Formats whose files do not begin in a way of their own: the ending says it, as any file may look like one.
_BY_ENDING_ALONE = ("DIB", "PCX", "TGA")
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
FORMATS_BY_CONTENT = tuple(name for name in FORMATS if name not in _BY_ENDING_ALONE)
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
        with Image.open(os.fsdecode(path), formats=FORMATS_BY_CONTENT):
            return True
    except Exception:  # Pillow's readers trip over files of other kinds with errors of any kind
        return False


def ending_of(path: bytes) -> str:
    """Return a file's ending in small letters, with the dot; empty if it has none."""
    return os.fsdecode(os.path.splitext(path)[1].lower())


def ending_of_content(data: bytes) -> str:
    """Return the ending that the bytes of an image should have: `.jpg`; empty for what cannot be opened."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS_BY_CONTENT) as image:
            return next(iter(ENDINGS["JPEG" if image.format == "MPO" else str(image.format)]), "")
    except Exception:  # as above
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
