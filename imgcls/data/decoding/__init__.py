"""Decoding: from the bytes of images to pixels of their crops, by the native decoder or Pillow. Imports no torch."""

from imgcls.data.decoding.formats import (
    EXTENSIONS,
    FORMATS,
    describe_left_out,
    ending_of,
    is_image,
    needs_anything,
)
from imgcls.data.decoding.native import MAX_FILE_BYTES, MAX_SIDE, Sizes, Workspace
from imgcls.data.decoding.pillow import (
    BadImageError,
    decode_box,
    decode_whole,
    load_whole,
    pixels_of,
    read_size,
    resample_box,
)
from imgcls.data.decoding.plan import Plan
from imgcls.data.decoding.readers import (
    CachingReader,
    Failures,
    FileReader,
    FileSource,
    Reader,
    describe_decoder,
    make_array_reader,
    make_file_reader,
    only_copies,
    windows_of,
)

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "MAX_FILE_BYTES",
    "MAX_SIDE",
    "BadImageError",
    "CachingReader",
    "Failures",
    "FileReader",
    "FileSource",
    "Plan",
    "Reader",
    "Sizes",
    "Workspace",
    "decode_box",
    "decode_whole",
    "describe_decoder",
    "describe_left_out",
    "ending_of",
    "is_image",
    "load_whole",
    "make_array_reader",
    "make_file_reader",
    "needs_anything",
    "only_copies",
    "pixels_of",
    "read_size",
    "resample_box",
    "windows_of",
]
