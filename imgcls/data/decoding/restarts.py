"""A JPEG written again so that a crop of it decodes faster, with the pixels of the original to the bit."""

from PIL import ExifTags, Image

from imgcls.data.decoding import native
from imgcls.data.decoding.pillow import BadImageError, traits_of


def with_restarts(data: bytes, name: str, *, blocks: int = native.RESTART_BLOCKS) -> bytes | None:
    """Return a baseline JPEG with a restart marker every few blocks and, of its metadata, the EXIF orientation alone.

    None of any other file, and of one that is broken.

    Args:
        blocks: from one marker to the next, in columns of 8 pixels.

    Raises:
        RuntimeError: the native decoder is not available.
    """
    written = native.write_restarts(data, blocks=blocks)
    if written is None:
        return None
    try:
        orientation = traits_of(data, name).orientation
    except BadImageError:  # Pillow cannot open what the native decoder can: nothing turns it, then
        return written
    if orientation == 1:
        return written
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = exif.tobytes()
    # Behind the segment that the native decoder looks for at the start.
    behind = 4 + int.from_bytes(written[4:6], "big")
    segment = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
    return written[:behind] + segment + written[behind:]
