"""Where the values of a column are in a parquet file, as byte ranges that can be read alone.

A column of images is a few pages for each hundred rows, each page compressed as a whole: to read one image, pyarrow
reads and unpacks ten megabytes. But Snappy, which nearly all files use, packs each 64 KB of a page on its own: the two
or three such blocks that hold an image can be cut out and unpacked alone.

The format: github.com/apache/parquet-format, README.md and parquet.thrift; Thrift's compact protocol; Snappy's
format_description.txt.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

SNAPPY_BLOCK = 1 << 16
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY = 0, 2, 8


class Value(NamedTuple):
    """Where the bytes of a value are: `stored` bytes of the file from `start` on.

    Unpacked they are `unpacked` bytes (0: they are not packed), of which the value is `length` from `skip` on.
    """

    start: int
    length: int
    stored: int
    unpacked: int
    skip: int


class Page(NamedTuple):
    """Values of a page: their bytes, and what is needed to find them in the file."""

    content: bytes  # unpacked
    first: int  # byte of the content where the values begin
    start: int  # byte of the file where the page's packed content begins
    stored: int
    cuts: list[int] | None  # of Snappy: where each block begins, in the packed content
    is_packed: bool

    def values(self) -> Iterator[tuple[memoryview, Value]]:
        """Yield the bytes of each value of a plain page, and where they are."""
        content, place = memoryview(self.content), self.first
        while place < len(content):
            (length,) = struct.unpack_from("<I", content, place)
            place += 4
            if place + length > len(content):
                raise ValueError("a value goes beyond its page")
            yield content[place : place + length], self._find(place, length)
            place += length

    def _find(self, place: int, length: int) -> Value:
        if not self.is_packed:
            return Value(self.start + place, length, length, 0, 0)
        if self.cuts is None:
            return Value(self.start, length, self.stored, len(self.content), place)
        first, last = place // SNAPPY_BLOCK, max(place, place + length - 1) // SNAPPY_BLOCK
        unpacked = min(len(self.content), (last + 1) * SNAPPY_BLOCK) - first * SNAPPY_BLOCK
        start, end = self.cuts[first], self.cuts[last + 1]
        return Value(self.start + start, length, end - start, unpacked, place - first * SNAPPY_BLOCK)


def read_pages(chunk: bytes, start: int, codec: str, *, has_levels: bool) -> Iterator[Page]:
    """Yield the pages of a column of byte arrays that hold values themselves, not references to a dictionary.

    Args:
        chunk: the bytes of a column of one row group.
        start: its first byte in the file.
        codec: as the file's metadata names it: SNAPPY, UNCOMPRESSED, ...
        has_levels: the column may be null.

    Raises:
        ValueError: the chunk is damaged, or of an encoding that is not known here.
    """
    place = 0
    while place < len(chunk):
        header, place = _read_struct(chunk, place)
        size, kind = header[3], header[1]
        packed = chunk[place : place + size]
        if len(packed) != size:
            raise ValueError("a page goes beyond its column")
        at, place = start + place, place + size
        levels = 0
        if kind == DICTIONARY_PAGE:
            encoding = PLAIN
        elif kind == DATA_PAGE:
            encoding = header[5][2]
        elif kind == DATA_PAGE_V2:
            encoding, levels = header[8][4], header[8].get(5, 0) + header[8].get(6, 0)
        else:
            continue
        if encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY):
            continue
        if encoding != PLAIN:
            raise ValueError(f"its images are written in encoding {encoding} of parquet, not plainly")
        is_packed = codec != "UNCOMPRESSED" and not (kind == DATA_PAGE_V2 and header[8].get(7) is False)
        content = unpack(codec, packed[levels:], header[2] - levels) if is_packed else packed[levels:]
        first = 4 + struct.unpack_from("<I", content)[0] if kind == DATA_PAGE and has_levels else 0
        cuts = find_cuts(packed[levels:]) if is_packed and codec == "SNAPPY" else None
        yield Page(content, first, at + levels, size - levels, cuts, is_packed)


def unpack(codec: str, packed: bytes, size: int) -> bytes:
    """Return the `size` bytes that a codec of parquet packed.

    Raises:
        ValueError: they are damaged.
    """
    import pyarrow

    try:
        name = {"LZ4": "lz4_raw"}.get(codec, codec.lower())
        return pyarrow.Codec(name).decompress(packed, decompressed_size=size, asbytes=True)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"it cannot be unpacked ({str(error).partition(chr(10))[0]})") from None


def unpack_blocks(packed: bytes, size: int) -> bytes:
    """Return what a run of Snappy's blocks unpacks to: `size` bytes.

    Raises:
        ValueError: they are damaged.
    """
    length, prefix = size, bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return unpack("SNAPPY", bytes(prefix) + packed, size)


def find_cuts(packed: bytes) -> list[int] | None:
    """Return where each block of 64 KB begins in what Snappy packed, and where the last one ends.

    None: they are not packed on their own, as the format allows; no known encoder does so.
    """
    place = 0
    while packed[place] & 0x80:  # the length in all
        place += 1
    place += 1
    cuts, out, end_of_block, size = [place], 0, SNAPPY_BLOCK, len(packed)
    while place < size:
        tag = packed[place]
        kind = tag & 3
        if kind == 0:
            length, extra = (tag >> 2) + 1, 0
            if length > 60:
                extra = length - 60
                length = int.from_bytes(packed[place + 1 : place + 1 + extra], "little") + 1
            place += 1 + extra + length
        else:
            width = (1, 2, 4)[kind - 1]
            back = int.from_bytes(packed[place + 1 : place + 1 + width], "little")
            if kind == 1:
                back |= (tag >> 5) << 8
            length = ((tag >> 2) & 7) + 4 if kind == 1 else (tag >> 2) + 1
            if back > out + SNAPPY_BLOCK - end_of_block:
                return None
            place += 1 + width
        out += length
        if out == end_of_block:
            cuts.append(place)
            end_of_block += SNAPPY_BLOCK
        elif out > end_of_block:
            return None
    if cuts[-1] != place:
        cuts.append(place)
    return cuts


def _read_struct(data: bytes, place: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct in Thrift's compact protocol by their numbers, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[place]
        place += 1
        if head == 0:
            return fields, place
        kind = head & 0x0F
        if head >> 4:
            number += head >> 4
        else:
            number, place = _read_number(data, place)
        fields[number], place = _read_field(data, place, kind)


def _read_field(data: bytes, place: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, place
    if kind == 3:
        return data[place], place + 1
    if kind in (4, 5, 6):
        return _read_number(data, place)
    if kind == 7:
        return None, place + 8
    if kind == 8:
        length, place = _read_varint(data, place)
        return None, place + length
    if kind in (9, 10):
        head = data[place]
        count, place = (head >> 4, place + 1) if head >> 4 != 15 else _read_varint(data, place + 1)
        for _ in range(count):
            _, place = _read_field(data, place, head & 0x0F)
        return None, place
    if kind == 12:
        return _read_struct(data, place)
    raise ValueError(f"a page's header has a field of the unknown kind {kind}")


def _read_number(data: bytes, place: int) -> tuple[int, int]:
    value, place = _read_varint(data, place)
    return (value >> 1) ^ -(value & 1), place


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
