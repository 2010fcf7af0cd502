"""The native decoder: JPEG bytes to resized crops in a batch, by a small C library over libjpeg-turbo.

The library (`_native.c`, built beside it) decodes only the part of a baseline JPEG that a box needs, and resizes and
flips it in the same pass. Its pixels are those of Pillow's `Image.resize((W, H), filter, box=box)` to the bit, with its
filters BILINEAR and BICUBIC, save that Pillow 13 shrinks tall images down before across, and is then at most 1 apart. A
file it does not take (progressive, CMYK, not a JPEG, broken) gets a status other than `Status.OK` and is Pillow's to
decode. A call holds no GIL, so that threads of one process decode side by side.

It is optional: `available()` says whether it is there, `why_not()` what to do when it is not, and the environment
variable IMGCLS_NATIVE=0 leaves it out. Where the package was not built (a bare checkout), compile it in place with

    python -m imgcls.data.decoding.native build
"""

import ctypes
import enum
import functools
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Pillow's own mark for a suspicious image (PIL.Image.MAX_IMAGE_PIXELS), a quarter of a GiB as RGB: larger ones are
# refused, by Pillow too.
MAX_PIXELS = 89_478_485
# A file of more bytes is not read: MAX_PIXELS of four channels of 16 bits are 0.7 GB. As in _native.c.
MAX_FILE_BYTES = 1 << 30
# The longest side of an output, as in _native.c.
MAX_SIDE = 16384
# Columns of 8 pixels between two restart markers of a packed JPEG: fewer decode no faster, and cost bytes.
RESTART_BLOCKS = 8
_VERSION = 6
# How pixels are interpolated, by the numbers of _native.c.
FILTERS = {"bilinear": 0, "bicubic": 1}
_SOURCE = Path(__file__).with_name("_native.c")
_INSTALL = (
    "install a C compiler and the headers of libjpeg-turbo 2.1 or later (Debian and Ubuntu: apt-get install gcc "
    "libjpeg62-turbo-dev or libjpeg-turbo8-dev; Fedora: dnf install gcc libjpeg-turbo-devel; conda: "
    "conda install -c conda-forge c-compiler libjpeg-turbo), then run: python -m imgcls.data.decoding.native build"
)
_REBUILD = "build it again: python -m imgcls.data.decoding.native build"


class Status(enum.IntEnum):
    """What the native decoder says of a file; everything but OK sends the file to Pillow."""

    OK = 0
    HEADER = 1
    UNSUPPORTED = 2
    TOO_LARGE = 3
    CORRUPT = 4
    TRUNCATED = 5
    BOX = 6
    MEMORY = 7
    UNREADABLE = 8

    @property
    def words(self) -> str:
        """The status as a reader of a log would want it."""
        return _WORDS[self]


_WORDS = {
    Status.OK: "decoded",
    Status.HEADER: "not a JPEG, or its header is broken",
    Status.UNSUPPORTED: "a kind of JPEG that is left to Pillow (progressive, arithmetic, CMYK, unusual sampling)",
    Status.TOO_LARGE: "more pixels than the limit",
    Status.CORRUPT: "corrupt data",
    Status.TRUNCATED: "the end of the image is missing",
    Status.BOX: "the box is empty or reaches outside the image",
    Status.MEMORY: "no memory",
    Status.UNREADABLE: "the file cannot be read",
}


class Sizes(NamedTuple):
    """Sizes int32 (N, 2) as height, width, and status int32 (N). A size is 0, 0 where the header was not readable."""

    sizes: NDArray[np.int32]
    status: NDArray[np.int32]


def available() -> bool:
    """Return True if the native decoder can be used in this process."""
    return not why_not()


def why_not() -> str:
    """Return why the native decoder is not available and what to do about it; empty if it is available."""
    if os.environ.get("IMGCLS_NATIVE", "1") == "0":
        return "IMGCLS_NATIVE=0 switches the native decoder off"
    return _load().reason


class Workspace:
    """The native decoder's memory for one thread: the files of the last `open_*`, read once, and its scratch space.

    Open a number of files, draw a box for each from its size, then decode them all. Not for two threads at a time.

    Raises:
        RuntimeError: The native decoder is not available.
    """

    def __init__(self, *, allow_avx2: bool = True) -> None:
        self._library = _library()
        self._handle: int | None = self._library.imgcls_workspace_new(int(allow_avx2))
        if not self._handle:
            raise MemoryError("no memory for a decoding workspace")
        self._num_files = 0
        self._held: Sequence[Any] = ()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.imgcls_workspace_free(self._handle)
            self._handle = None

    def open_files(self, paths: Sequence[str | bytes | os.PathLike[str]], *, max_pixels: int = MAX_PIXELS) -> Sizes:
        """Read the files and their sizes, in one call without the GIL."""
        names = [os.fsencode(path) for path in paths]
        blob = b"".join(name + b"\0" for name in names)
        if blob.count(0) != len(names):
            raise ValueError(f"a path holds a NUL: {next(name for name in names if 0 in name)!r}; rename the file")
        opened = _empty_sizes(len(names))
        self._held, self._num_files = (), 0
        code = self._library.imgcls_open_files(
            self._handle, blob, len(names), max_pixels, opened.sizes.ctypes.data, opened.status.ctypes.data
        )
        return self._opened(code, opened)

    def open_ranges(self, handles: Sequence[int], starts: Any, lengths: Any, *, max_pixels: int = MAX_PIXELS) -> Sizes:
        """Read ranges of open files and their sizes, in one call without the GIL; not on Windows.

        Args:
            handles: file descriptors, one for each range.
            starts, lengths: of whole numbers (N,), in bytes.
        """
        opened = _empty_sizes(len(handles))
        arrays = [np.array(handles, np.int32), *(np.ascontiguousarray(each, np.int64) for each in (starts, lengths))]
        if any(array.shape != (len(handles),) for array in arrays):
            raise ValueError(f"handles, starts and lengths {[array.shape for array in arrays]} differ in length")
        self._held, self._num_files = (), 0
        code = self._library.imgcls_open_ranges(
            self._handle,
            *(array.ctypes.data for array in arrays),
            len(handles),
            max_pixels,
            opened.sizes.ctypes.data,
            opened.status.ctypes.data,
        )
        return self._opened(code, opened)

    def open_bytes(self, data: Sequence[Any], *, max_pixels: int = MAX_PIXELS) -> Sizes:
        """Hold files given as bytes, memoryview or uint8 arrays, not copied, and read their sizes.

        None stands for a file that could not be read.
        """
        pointers, lengths, held = _pointers(data)
        opened = _empty_sizes(len(data))
        code = self._library.imgcls_open_bytes(
            self._handle,
            pointers.ctypes.data,
            lengths.ctypes.data,
            len(data),
            max_pixels,
            opened.sizes.ctypes.data,
            opened.status.ctypes.data,
        )
        self._held = held
        opened.status[[position for position, item in enumerate(data) if item is None]] = Status.UNREADABLE
        return self._opened(code, opened)

    def contents(self, index: int) -> bytes:
        """Return a copy of one file's bytes, for Pillow: also if its status is not OK; empty if it was unreadable."""
        if not 0 <= index < self._num_files:
            raise ValueError(f"index={index} is not one of the {self._num_files} open files; open them first")
        length = ctypes.c_int64()
        address = self._library.imgcls_contents(self._handle, index, ctypes.byref(length))
        return ctypes.string_at(address, length.value) if address else b""

    def decode(
        self,
        boxes: NDArray[np.float64],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
        *,
        interpolation: str = "bilinear",
    ) -> NDArray[np.int32]:
        """Decode the open files into `out` (N, H, W, C) and return their status, int32 (N).

        Boxes (N, 4) are left, top, right, bottom in pixels of the source, inside it. Pixels around the box take
        part in the antialiasing, as in Pillow's `resize(box=)`. Where the status is not OK, the image in `out` is
        left undefined. `interpolation` is one of `FILTERS`.

        Raises:
            ValueError: A shape or a dtype is not as said, or `out` is not C-contiguous.
        """
        count = self._num_files
        boxes = np.ascontiguousarray(boxes, dtype=np.float64)
        flips = np.ascontiguousarray(flips, dtype=np.bool_)
        if boxes.shape != (count, 4) or flips.shape != (count,):
            raise ValueError(
                f"boxes {boxes.shape} and flips {flips.shape} do not fit the {count} open files; "
                f"pass ({count}, 4) and ({count},)"
            )
        if out.dtype != np.uint8 or out.ndim != 4 or out.shape[0] != count or not out.flags.c_contiguous:
            raise ValueError(
                f"out {out.dtype} {out.shape} is not a C-contiguous uint8 array ({count}, H, W, C); pass a slice of "
                "a batch along its first axis"
            )
        height, width, channels = out.shape[1:]
        if channels not in (1, 3) or not 1 <= height <= MAX_SIDE or not 1 <= width <= MAX_SIDE:
            raise ValueError(f"out {out.shape} must have sides of 1 to {MAX_SIDE} and 1 or 3 channels")
        if not out.flags.writeable:
            raise ValueError("out is read-only; pass an array that can be written to")
        status = np.empty(count, np.int32)
        code = self._library.imgcls_decode(
            self._handle,
            boxes.ctypes.data,
            flips.ctypes.data,
            count,
            height,
            width,
            channels,
            FILTERS[interpolation],
            out.ctypes.data,
            status.ctypes.data,
        )
        assert code == 0, code
        return status

    def skim(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Decode the entropy coding alone, down to row `rows[i]`, to measure it; return the files' status."""
        rows = np.ascontiguousarray(rows, dtype=np.int32)
        if rows.shape != (self._num_files,) or (rows < 1).any():
            raise ValueError(f"rows {rows.shape} must be {self._num_files} positive numbers, one for each open file")
        status = np.empty(self._num_files, np.int32)
        code = self._library.imgcls_skim(self._handle, rows.ctypes.data, self._num_files, status.ctypes.data)
        assert code == 0, code
        return status

    def _opened(self, code: int, opened: Sizes) -> Sizes:
        if code != 0:
            self._held, self._num_files = (), 0
            raise MemoryError(f"no memory to hold {len(opened.status)} files")
        self._num_files = len(opened.status)
        return opened


def write_restarts(data: bytes, *, blocks: int = RESTART_BLOCKS, max_pixels: int = MAX_PIXELS) -> bytes | None:
    """Return a baseline JPEG written again, so that a crop of it decodes faster: its coefficients and pixels the same.

    It has optimised Huffman tables, a restart marker after each `blocks` columns of 8 pixels (half as many of 16, where
    those are coded together), a segment that says where the markers are, and no metadata. None of a file that the
    native decoder does not take.

    Raises:
        RuntimeError: The native decoder is not available.
    """
    library = _library()
    source = np.frombuffer(data, np.uint8)
    out = np.empty(2 * len(data) + (1 << 16), np.uint8)
    length = ctypes.c_int64()
    status = library.imgcls_write_restarts(
        source.ctypes.data, source.size, blocks, max_pixels, out.ctypes.data, out.size, ctypes.byref(length)
    )
    return out[: length.value].tobytes() if status == Status.OK else None


def build(*, compiler: str | None = None, flags: Sequence[str] = (), output: Path | None = None) -> Path:
    """Compile `_native.c` beside its source with the system's C compiler and return the library's path.

    Raises:
        FileNotFoundError: There is no compiler, or no source.
        RuntimeError: The compiler failed, with its words and what to install.
    """
    if not _SOURCE.is_file():
        raise FileNotFoundError(f"{_SOURCE.name} is not beside native.py; run this in a checkout of the source")
    named = compiler or os.environ.get("CC", "gcc" if sys.platform == "win32" else "cc")
    path = shutil.which(named)
    if path is None:
        raise FileNotFoundError(f"no C compiler {named!r} on this machine; {_INSTALL}")
    output = output or _SOURCE.with_suffix(_SUFFIXES[0])
    part = output.with_name(f".{output.name}.{os.getpid()}")
    command = [path, *_FLAGS, *_SHARED, *flags, "-o", str(part), str(_SOURCE), "-ljpeg", "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr.strip()}\nTo mend it, {_INSTALL}")
        # A process that has the old file mapped keeps it.
        os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)
    _load.cache_clear()
    return output


# No contraction to fused multiply-add: the weights must round as Pillow's do.
_FLAGS = ("-O3", "-std=gnu11", "-Wall", "-fvisibility=hidden", "-ffp-contract=off")
_SHARED = ("-shared",) if sys.platform == "win32" else ("-shared", "-fPIC")
# Of the library, first as `build` names it; setuptools writes .so on macOS too, and .pyd on Windows.
_SUFFIXES = {"win32": (".dll", ".pyd"), "darwin": (".dylib", ".so")}.get(sys.platform, (".so",))


class _LoadResult(NamedTuple):
    library: ctypes.CDLL | None
    reason: str


@functools.cache
def _load() -> _LoadResult:
    """Load the newest library built beside this file."""
    libraries = [path for path in _SOURCE.parent.glob("_native*") if path.suffix in _SUFFIXES]
    built = sorted(libraries, key=lambda path: path.stat().st_mtime, reverse=True)
    if not built:
        return _LoadResult(None, f"the native decoder is not built; {_INSTALL}")
    try:
        library = ctypes.CDLL(str(built[0]))
        version = library.imgcls_native_version()
    except (OSError, AttributeError) as error:
        return _LoadResult(None, f"the native decoder does not load ({error}); {_INSTALL}")
    if version != _VERSION:
        return _LoadResult(None, f"{built[0].name} is of version {version}, the package needs {_VERSION}; {_REBUILD}")
    if not library.imgcls_native_works():
        return _LoadResult(None, f"{built[0].name} was built for another libjpeg than this process finds; {_REBUILD}")
    pointer, int32, int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    for name, result, arguments in [
        ("imgcls_workspace_new", pointer, [int32]),
        ("imgcls_workspace_free", None, [pointer]),
        ("imgcls_open_bytes", int32, [pointer, pointer, pointer, int64, int64, pointer, pointer]),
        ("imgcls_open_files", int32, [pointer, ctypes.c_char_p, int64, int64, pointer, pointer]),
        ("imgcls_open_ranges", int32, [pointer, pointer, pointer, pointer, int64, int64, pointer, pointer]),
        ("imgcls_contents", pointer, [pointer, int64, pointer]),
        ("imgcls_decode", int32, [pointer, pointer, pointer, int64, int32, int32, int32, int32, pointer, pointer]),
        ("imgcls_skim", int32, [pointer, pointer, int64, pointer]),
        ("imgcls_write_restarts", int32, [pointer, int64, int32, int64, pointer, int64, pointer]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return _LoadResult(library, "")


def _library() -> ctypes.CDLL:
    reason = why_not()
    library = _load().library
    if reason or library is None:
        raise RuntimeError(f"the native decoder is not available: {reason}")
    return library


def _empty_sizes(count: int) -> Sizes:
    return Sizes(np.empty((count, 2), np.int32), np.empty(count, np.int32))


def _pointers(data: Sequence[Any]) -> tuple[NDArray[np.uint64], NDArray[np.int64], list[Any]]:
    """Addresses and lengths of the files' bytes, and what keeps them alive."""
    held = [np.frombuffer(item, np.uint8) if item is not None and len(item) else np.empty(0, np.uint8) for item in data]
    addresses = np.array([item.__array_interface__["data"][0] for item in held], np.uint64)
    return addresses, np.array([item.size for item in held], np.int64), held


def main(arguments: Sequence[str]) -> int:
    """`build` compiles the library; without a word, say whether it is there."""
    if arguments not in (["build"], []):
        print("usage: python -m imgcls.data.decoding.native [build]", file=sys.stderr)
        return 2
    if arguments:
        try:
            print(f"built {build()}")
        except (FileNotFoundError, RuntimeError) as error:
            print(error, file=sys.stderr)
            return 1
    reason = why_not()
    vectors = "NEON" if platform.machine().lower() in ("arm64", "aarch64") else "plain C"
    print(reason or f"the native decoder is available, {'AVX2' if _library().imgcls_native_has_avx2() else vectors}")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
