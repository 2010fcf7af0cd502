"""What the markers of a JPEG say, and a copy of one that ends below the rows that are wanted.

Pillow decodes a file from its first row to the last. A baseline JPEG whose frame header names fewer rows is a whole
JPEG of the upper part of the image; libjpeg passes over the data that are left.
"""

import re
import struct
from typing import NamedTuple

ALONE = frozenset((0x01, 0xD8, *range(0xD0, 0xD8)))  # markers without a length: TEM, SOI, RSTn
SEQUENTIAL = (0xC0, 0xC1)  # SOF0, SOF1: Huffman-coded, not progressive
START_OF_SCAN, END_OF_IMAGE, END = 0xDA, 0xD9, b"\xff\xd9"
# A file of a few kilobytes can have a thousand scans, each of which visits every block of the image. Encoders write 10
# or so; 100 is where Chromium and Skia (ProgressMonitor) and libtiff (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER) stop.
MAX_SCANS = 100
MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)  # FF 00 is a byte FF of the entropy-coded data
NO_RESTART = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
CHROMA_REACH = 2  # rows beyond those wanted that interpolating chroma looks at, where it is halved


class Frame(NamedTuple):
    """A sequential JPEG of one scan."""

    height: int
    width: int
    height_at: int  # where in the file the height is written, 16 bits, big-endian
    block_rows: int  # rows that are coded together


def read_frame(data: bytes) -> Frame | None:
    """Return the frame of a file that `upper_rows` can shorten; None for any other, and for one that may be refused.

    ITU T.81, annex B. A decoder reads on from the last row to the end of the image, and refuses a file without one, or
    with other segments before it that are broken. Such a file is left as it is, so that it is refused whatever rows are
    wanted; what is wrong within the scan is never refused.
    """
    position, frame = 2, None
    if data[:2] != b"\xff\xd8":
        return None
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in ALONE:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in SEQUENTIAL and length >= 8 and position + 2 + length <= len(data):
            bits, height, width, num_components = struct.unpack_from(">BHHB", data, position + 4)
            if bits != 8 or not height or not width or num_components not in (1, 3) or length != 8 + 3 * num_components:
                return None
            # A single component is coded in blocks of 8 rows, whatever its sampling factors say.
            sampling = max(data[position + 11 + 3 * i] & 15 for i in range(num_components)) if num_components > 1 else 1
            frame = (height, width, position + 5, 8 * sampling, num_components)
        elif marker == START_OF_SCAN:
            if frame is None or position + 4 >= len(data) or data[position + 4] != frame[-1]:
                return None
            return Frame(*frame[:4]) if _end_follows(data, position + 2 + length) else None
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None
        position += 2 + length
    return None


def _end_follows(data: bytes, position: int) -> bool:
    """Return True if the entropy-coded data that begin at `position` are followed by the end of the image."""
    end = data.find(END, position)
    if end < 0:
        return False
    if data.count(b"\xff", position, end) == data.count(b"\xff\x00", position, end):
        return True  # no marker at all: counting is five times as fast as looking at each
    found = NO_RESTART.search(data, position)
    return found is not None and found[1][0] == END_OF_IMAGE


def is_lossless(data: bytes) -> bool:
    """Return True if a JPEG is coded without loss (SOF3, SOF11): libjpeg neither shrinks it nor takes luma alone."""
    position = 2
    while (found := MARKER.search(data, position)) and (marker := found[1][0]) not in (START_OF_SCAN, END_OF_IMAGE):
        position = found.end()
        if marker not in ALONE:
            if marker in (0xC3, 0xCB):
                return True
            position += int.from_bytes(data[position : position + 2], "big")
    return False


def num_scans(data: bytes) -> int:
    """Return how many scans a file's image has, or how often their marker occurs in the file if that is seldom."""
    if (occurrences := data.count(b"\xff\xda")) <= MAX_SCANS:
        return occurrences
    # By the segments: what follows the image, such as a phone's video, may hold the two bytes as well.
    position, scans = 2, 0
    while (found := MARKER.search(data, position)) and (marker := found[1][0]) != END_OF_IMAGE:
        position = found.end()
        if marker not in ALONE:
            scans += marker == START_OF_SCAN
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return scans


def upper_rows(data: bytes, frame: Frame, rows: int) -> bytes:
    """Return a file of `height_of_upper_rows` that decodes to the same pixels in its first `rows` rows at least."""
    kept = height_of_upper_rows(frame.height, frame.block_rows, rows)
    if kept == frame.height:
        return data
    return data[: frame.height_at] + kept.to_bytes(2, "big") + data[frame.height_at + 2 :]


def height_of_upper_rows(height: int, block_rows: int, rows: int) -> int:
    """Return how many rows have to be decoded so that the first `rows` are right."""
    return min(height, -(-(rows + CHROMA_REACH) // block_rows) * block_rows)
