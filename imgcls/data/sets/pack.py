"""A pack: a set's images, written again so that a crop decodes faster, one after another in a single file.

A lossless pack has the pixels of the originals, to the bit, and their EXIF orientation. Each baseline JPEG has restart
markers (`imgcls.data.decoding.with_restarts`), as long as the pack is no larger than its files; every other file is as
it was. A lossy pack has smaller images: the longer side is at most 400 pixels, the JPEG quality 90, colour at half
resolution, and metadata is gone. ImageNet becomes some 46 GB instead of 138, which fits more page caches.

The file is the images' bytes, then the index as an npz, then 16 bytes: the index's length and the magic word.
"""

import collections
import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from filelock import Timeout
from PIL import Image

from imgcls.data.decoding import BadImageError, decode_whole, jpeg, load_whole, native, with_restarts
from imgcls.data.sets.files import FileSplit, PackSplit
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import command
from imgcls.runs import lock_file

log = logging.getLogger(__name__)
MAGIC = b"imgpack1"
PACK_LONGEST, PACK_QUALITY = 400, 90  # of the images of a lossy pack: pixels of the longer side, JPEG quality
DIGEST_SIZE = 32
NOTE_EVERY = 256  # images: what may have to be encoded again
# Noted with the length of an image that is packed as it was: one that cannot be decoded, one that is no baseline JPEG,
# one for whose restart markers no bytes are left.
BROKEN, OTHER_KIND, LARGER = 1 << 63, 1 << 62, 1 << 61
BLOCKS = (8, 16, 32)  # columns of 8 pixels from a restart marker to the next: the more, the smaller and the slower


class PackSummary(NamedTuple):
    """How a pack turned out."""

    num_images: int
    num_bytes: int
    num_of_other_kind: int  # decodable, but no baseline JPEG: packed as they are
    num_larger: int  # with restart markers, for which no bytes were left: packed as they are
    broken: list[str]  # could not be decoded, with the reason: packed as they are, for the loader to judge


def open_pack(root: str | None, *, channels: int = 3) -> ImageSet:
    """Open a pack that the command `pack` made.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no pack, or not a whole one.
    """
    if root is None:
        raise ValueError(
            f"data.root is not set; name a pack that `{command('pack')}` made: data.root=/path/imagenet.pack"
        )
    path = Path(root).expanduser()
    if not path.is_file():
        unfinished = f"; it is unfinished: run `{command('pack')}` again" if _part(path).exists() else ""
        make = f"; make a pack with `{command('pack')}`"
        raise FileNotFoundError(f"data.root={root} is no file{unfinished or make}")
    index, num_bytes = _read_index(path)
    about = _about(path, index, num_bytes)
    starts = np.concatenate([[0], index["lengths"].cumsum(dtype=np.int64)])
    name_offsets = np.concatenate([[0], index["name_lengths"].cumsum(dtype=np.int64)])

    lossless = about.get("lossless", False)

    def split(first: int, last: int) -> PackSplit:
        packed = PackSplit(
            path,
            starts=starts[first:last],
            lengths=index["lengths"][first:last],
            names=index["names"][name_offsets[first] : name_offsets[last]],
            name_offsets=name_offsets[first : last + 1] - name_offsets[first],
            labels=index["labels"][first:last],
        )
        packed.takes_rules = lossless
        return packed

    if lossless:
        log.info("%s is lossless: its images have the pixels of the originals", path)
    else:
        log.info("%s is lossy: longer side at most %d px, JPEG quality %d", path, about["longest"], about["quality"])
    num_train = about["num_train"]
    return ImageSet(
        train=split(0, num_train),
        val=split(num_train, len(index["lengths"])),
        classes=about["classes"],
        channels=channels,
    )


def _about(path: Path, index: dict[str, np.ndarray], num_bytes: int) -> dict[str, Any]:
    """Return what the index says of the pack, whose images have `num_bytes`, once all of it is known to fit together.

    Raises:
        ValueError: it does not.
    """
    try:
        about = json.loads(index["about"].tobytes())
        _check_index(about, index, num_bytes)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: the index of the pack is broken ({error}); pack the images again") from None
    return about


def _check_index(about: Any, index: dict[str, np.ndarray], num_bytes: int) -> None:
    for key in ("lengths", "labels", "names", "name_lengths"):
        if index[key].ndim != 1 or index[key].dtype.kind not in "iu":
            raise ValueError(f"{key} are no whole numbers")
    num_train, lossless = about["num_train"], about.get("lossless", False)
    if not isinstance(lossless, bool):
        raise ValueError("lossless is neither true nor false")
    for value in (num_train, *(() if lossless else (about["longest"], about["quality"]))):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("longest, quality or num_train is no whole number")
    classes = about["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes are no list of names")
    num = len(index["lengths"])
    if not len(index["labels"]) == len(index["name_lengths"]) == num or not 0 < num_train < num:
        raise ValueError("its parts are of different lengths")
    # As numbers without bounds: a sum of large ones must not wrap around.
    lengths, name_lengths = index["lengths"].astype(float), index["name_lengths"].astype(float)
    if (
        lengths.min() < 0
        or lengths.sum() != num_bytes
        or name_lengths.min() < 0
        or name_lengths.sum() != len(index["names"])
    ):
        raise ValueError("its lengths are of other images or names than it holds")
    if index["labels"].min() < 0 or index["labels"].max() >= len(classes):
        raise ValueError("a label is no class")


def make_pack(
    images: ImageSet,
    path: Path,
    *,
    lossless: bool = True,
    longest: int = PACK_LONGEST,
    quality: int = PACK_QUALITY,
    num_threads: int = 1,
    progress: Callable[[Iterable[Any], int, int], Iterable[Any]] = lambda encoded, done, total: encoded,
) -> PackSummary:
    """Pack the train and val images of a set of files into `path`, going on where a run before was broken off.

    Args:
        longest, quality: of a lossy pack, as in `shrink`.
        progress: passes the encoded images on, given how many are done already and how many there are.

    Raises:
        FileExistsError: `path` exists.
        BadImageError: a file cannot be read.
        ValueError: a setting that makes no sense, what was begun is of another set or other settings, another
            process is at it, or a lossless pack is asked for without the native decoder, which writes it.
    """
    if not lossless and (not 1 <= quality <= 95 or longest < 32):
        raise ValueError(f"longest={longest}, quality={quality}: use 32 px or more, and a quality of 1 to 95")
    if lossless and not native.available():
        raise ValueError(
            f"only the native decoder's library writes a lossless pack: {native.why_not()} (--lossy does without it)"
        )
    entries = _Entries(images)
    about: dict[str, object] = {"lossless": True} if lossless else {"longest": longest, "quality": quality}
    about |= {"restarts": native.available(), "num_train": entries.num_train, "classes": images.classes}
    broken: dict[int, str] = {}

    def encode(index: int) -> _Encoded:
        data, name = entries.read(index)
        try:
            return encode_losslessly(data, name) if lossless else _Encoded([], shrink(data, name, longest, quality), 0)
        except BadImageError as error:
            broken[index] = str(error)
            return _Encoded([], data, BROKEN)

    with _locked(path), open(_part(path), "ab+") as part, open(_part(path, ".lengths"), "ab+") as noted:
        lengths = _done(part, noted, entries.digest(about), path)
        for index, length in enumerate(lengths):
            if length & BROKEN:
                encode(index)  # for the reason alone
        todo = range(len(lengths), len(entries))
        saved = entries.num_bytes(len(lengths)) - int(_plain(lengths).sum()) if lossless else 0
        for image in progress(_in_order(encode, todo, num_threads), len(lengths), len(entries)):
            data, flag = image.within(saved)
            saved += len(image.last) - len(data)
            part.write(data)
            lengths.append(len(data) | flag)
            if len(lengths) % NOTE_EVERY == 0:
                _note(part, noted, lengths)
        _note(part, noted, lengths)
        _write_index(part, _plain(lengths).astype(np.uint32), entries, about)
        part.flush()
        os.fsync(part.fileno())
        os.replace(_part(path), path)
        _part(path, ".lengths").unlink()
    num_of_other_kind, num_larger = (sum(length & flag != 0 for length in lengths) for flag in (OTHER_KIND, LARGER))
    return PackSummary(len(entries), path.stat().st_size, num_of_other_kind, num_larger, sorted(broken.values()))


class _Encoded(NamedTuple):
    """The ways in which an image may be packed: the fastest to decode first, then the `last`, with what to note."""

    faster: list[bytes]
    last: bytes
    flag: int

    def within(self, saved: int) -> tuple[bytes, int]:
        """Return the fastest that is at most `saved` bytes larger than the last, and what to note with its length."""
        for data in self.faster:
            if len(data) <= len(self.last) + saved:
                return data, 0
        return self.last, self.flag


def encode_losslessly(data: bytes, name: str) -> _Encoded:
    """Return a baseline JPEG with restart markers in several distances, up to one that makes it no larger.

    Any other image is as it is.

    Raises:
        BadImageError: it cannot be decoded.
    """
    faster: list[bytes] = []
    for blocks in BLOCKS:
        encoded = with_restarts(data, name, blocks=blocks)
        if encoded is None:
            decode_whole(data, 3, name)
            return _Encoded([], data, OTHER_KIND)
        faster.append(encoded)
        if len(encoded) <= len(data):
            break
    return _Encoded(faster, data, LARGER)


def shrink(data: bytes, name: str, longest: int, quality: int) -> bytes:
    """Return an image encoded again, its longer side at most `longest`; a plain JPEG no larger keeps its pixels.

    Where there is the native decoder, it has restart markers too.

    Raises:
        BadImageError: it cannot be decoded.
    """
    image = load_whole(data, 3, name)
    scale = longest / max(image.size)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    if scale < 1 or jpeg.read_frame(data) is None:
        file = io.BytesIO()
        # Colour at half resolution is a quarter faster to decode; Huffman tables of the image's own save a few percent.
        image.save(file, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
        data = file.getvalue()
    return (native.write_restarts(data) if native.available() else None) or data


class _Entries:
    """The images of both splits under one count, the training images first."""

    def __init__(self, images: ImageSet) -> None:
        self.parts: list[tuple[str, FileSplit]] = []
        for name, split in (("train", images.train), ("val", images.val)):
            if not isinstance(split, FileSplit):
                raise ValueError("this set is in memory as it is; only sets of image files can be packed")
            self.parts.append((name, split))
        self.num_train = len(images.train)

    def __len__(self) -> int:
        return sum(len(split) for _, split in self.parts)

    def read(self, index: int) -> tuple[bytes, str]:
        """Return the bytes and the path of an image."""
        _, split, at = self._at(index)
        return split.read(at), split.path(at)

    def num_bytes(self, num: int) -> int:
        """Return how many bytes the files of the first `num` images have."""
        counts = min(num, self.num_train), max(num - self.num_train, 0)
        return sum(
            int(split.num_bytes(np.arange(count)).sum()) for (_, split), count in zip(self.parts, counts, strict=True)
        )

    def names(self) -> Iterator[bytes]:
        for index in range(len(self)):
            part, split, at = self._at(index)
            yield part.encode() + b"/" + split.name(at)

    def labels(self) -> np.ndarray:
        return np.concatenate([split.labels for _, split in self.parts]).astype(np.int32)

    def digest(self, about: dict[str, object]) -> bytes:
        """Return a digest of what goes into the pack: what was begun with another digest is another pack."""
        hasher = hashlib.sha256(json.dumps(about).encode())
        hasher.update(self.labels().tobytes())
        for name in self.names():
            hasher.update(name + b"\0")
        return hasher.digest()

    def _at(self, index: int) -> tuple[str, FileSplit, int]:
        second = index >= self.num_train
        return *self.parts[second], index - self.num_train * second


def _part(path: Path, more: str = "") -> Path:
    return path.with_name(f"{path.name}.part{more}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from packing into `path`, which must not exist."""
    file = _part(path, ".lock")
    try:
        lock = lock_file(file)
    except Timeout:
        raise ValueError(f"{path} is being packed by another process; wait for it, or name another file") from None
    try:
        if path.exists():
            raise FileExistsError(f"{path} exists; remove it to pack again")
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def _in_order(encode: Callable[[int], _Encoded], todo: Iterable[int], num_threads: int) -> Iterator[_Encoded]:
    coming: collections.deque[Future[_Encoded]] = collections.deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="imgcls-pack") as pool:
        try:
            for index in todo:
                coming.append(pool.submit(encode, index))
                if len(coming) > 8 * num_threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def _done(part: BinaryIO, noted: BinaryIO, digest: bytes, path: Path) -> list[int]:
    # Lengths are written after their images; images beyond the last length are encoded again.
    noted.seek(0)
    saved, rest = noted.read(DIGEST_SIZE), noted.read()
    if not saved:
        noted.write(digest)
    elif saved != digest:
        raise ValueError(
            f"{_part(path)} was begun from other images or with other settings; remove it and "
            f"{_part(path, '.lengths').name} to start from the beginning"
        )
    lengths = np.frombuffer(rest[: len(rest) // 8 * 8], "<u8").tolist()
    ends = _plain(lengths).cumsum(dtype=np.int64)
    kept = int((ends <= part.seek(0, os.SEEK_END)).sum())
    part.truncate(int(ends[kept - 1]) if kept else 0)
    noted.truncate(DIGEST_SIZE + 8 * kept)
    return lengths[:kept]


def _plain(lengths: list[int]) -> np.ndarray:
    return np.array(lengths, np.uint64) & np.uint64(LARGER - 1)


def _note(part: BinaryIO, noted: BinaryIO, lengths: list[int]) -> None:
    part.flush()
    noted.seek(0, os.SEEK_END)
    done = (noted.tell() - DIGEST_SIZE) // 8
    noted.write(np.array(lengths[done:], "<u8").tobytes())
    noted.flush()


def _write_index(part: BinaryIO, lengths: np.ndarray, entries: _Entries, about: dict[str, object]) -> None:
    names = list(entries.names())
    file = io.BytesIO()
    np.savez(
        file,
        lengths=lengths,
        labels=entries.labels(),
        names=np.frombuffer(b"".join(names), np.uint8),
        name_lengths=np.fromiter(map(len, names), np.uint32, len(names)),
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
    )
    part.write(file.getbuffer())
    part.write(file.getbuffer().nbytes.to_bytes(8, "little") + MAGIC)


def _read_index(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Return the arrays of the index, not yet checked, and the number of bytes before it."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 16))
        tail = file.read(16)
        length = int.from_bytes(tail[:8], "little")
        if len(tail) < 16 or tail[8:] != MAGIC or length > size - 16:
            raise ValueError(f"{path} is no pack, or its end is missing; make one with `{command('pack')}`")
        file.seek(size - 16 - length)
        try:
            return _arrays_of(file.read(length)), size - 16 - length
        except (ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: the index of the pack is broken ({error}); pack the images again") from error


def _arrays_of(npz: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > len(npz):
            raise ValueError("it unfolds to more bytes than it has")
    with np.load(io.BytesIO(npz), allow_pickle=False) as index:
        return {key: index[key] for key in ("lengths", "labels", "names", "name_lengths", "about")}
