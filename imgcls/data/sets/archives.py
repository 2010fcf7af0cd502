"""ImageNet's official tar archives, read in place: an index of where each image's bytes are, built once.

ILSVRC2012_img_train.tar holds a tar of each class, ILSVRC2012_img_val.tar the images alone. Neither is compressed, so
that an image is a range of the file's bytes.
"""

import collections
import io
import json
import logging
import os
import re
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from imgcls.data.decoding import EXTENSIONS, ending_of
from imgcls.data.sets.files import PackSplit
from imgcls.data.sets.listing import pack_names
from imgcls.environment import cache_file, keep, printable

log = logging.getLogger(__name__)
WHAT = "the index"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
SAVE_EVERY = 30.0  # seconds of indexing that a kill may lose


class ArchiveSplit(PackSplit):
    """Images in a tar, named as they would be unpacked: <wnid>/<file>."""

    cut_short = "the archive ends before it; download it again"


class Index(NamedTuple):
    """The images in a tar and in the tars within it, sorted by name: 61 MB for ImageNet's 1.28 million.

    Image i is called names[offsets[i]:offsets[i + 1]], and is lengths[i] bytes of the outer file from starts[i] on.
    """

    names: np.ndarray  # uint8
    offsets: np.ndarray  # int64
    starts: np.ndarray  # int64
    lengths: np.ndarray  # uint32
    left_out: dict[str, int]  # files that are no images, by ending

    def name(self, place: int) -> bytes:
        """Return the name of an image: <wnid>/<file> in a tar of a class, else <file>."""
        return self.names[self.offsets[place] : self.offsets[place + 1]].tobytes()

    def wnids(self) -> tuple[list[str], np.ndarray]:
        """Return the classes, sorted, of an index of images named <wnid>/<file>, and the label of each (N,).

        Raises:
            ValueError: a tar of a class is not called by a WordNet id.
        """
        width = len("n01440764/")
        if len(self.starts) and np.diff(self.offsets).min() > width:
            heads = np.ascontiguousarray(self.names[self.offsets[:-1, None] + np.arange(width)])
            classes, labels = np.unique(heads.view(f"S{width}")[:, 0], return_inverse=True)
            if all(re.fullmatch(rb"n\d{8}/", name) for name in classes.tolist()):
                return [name[:-1].decode() for name in classes.tolist()], labels.astype(np.int64)
        raise ValueError("it holds other files than a tar of images for each class, as n01440764.tar")


class _Files(NamedTuple):
    """Files by name, with their places in the outer file and their lengths, as they are found."""

    names: list[bytes]
    starts: list[int]
    lengths: list[int]


def index_archive(path: Path) -> Index:
    """Return the index of a tar, from the cache folder where the file has not changed since; broken off, it goes on.

    Raises:
        ValueError: the file is no tar, or is cut short: the text says how far it is whole.
    """
    cached = _cache_file(path)
    index, begin, whole = _load(cached)
    if index is not None and whole:
        return index
    files, left_out = (_Files([], [], []), {}) if index is None else (_listed(index), index.left_out)
    started = saved = shown = time.monotonic()
    size, done = path.stat().st_size, begin
    with path.open("rb") as file:
        for entries, done in _members(path, file, begin):
            files.names.extend(entries.names)
            files.starts.extend(entries.starts)
            files.lengths.extend(entries.lengths)
            now = time.monotonic()
            if now - shown > 10:
                log.info("indexing %s: %s images, %.0f %%", path, f"{len(files.names):,}", 100 * done / size)
                shown = now
            if now - saved > SAVE_EVERY:
                _save(cached, _index_of(files, left_out), done, whole=False)
                saved = time.monotonic()
    index = _index_of(files, left_out)
    _save(cached, index, done, whole=True)
    log.info("indexed %s images in %s in %.1f s", f"{len(index.starts):,}", path, time.monotonic() - started)
    return index


def _index_of(files: _Files, left_out_before: dict[str, int]) -> Index:
    left_out = collections.Counter(ending_of(name) for name in files.names if not name.lower().endswith(EXTENSIONS))
    left_out.update(left_out_before)
    order = sorted(range(len(files.names)), key=files.names.__getitem__)
    order = [place for place in order if files.names[place].lower().endswith(EXTENSIONS)]
    names, offsets = pack_names([files.names[place] for place in order])
    starts, lengths = np.array(files.starts, np.int64), np.array(files.lengths, np.uint32)
    return Index(names, offsets, starts[order], lengths[order], dict(left_out))


def _listed(index: Index) -> _Files:
    names = [index.name(place) for place in range(len(index.starts))]
    return _Files(names, index.starts.tolist(), index.lengths.tolist())


def split_of(path: Path, index: Index, labels: np.ndarray, *, order: np.ndarray | None = None) -> ArchiveSplit:
    """Return the images of an index with their labels (N,), in another `order` (N,) if given."""
    starts, lengths = (index.starts, index.lengths) if order is None else (index.starts[order], index.lengths[order])
    return ArchiveSplit(
        path, starts=starts, lengths=lengths, names=index.names, name_offsets=index.offsets, labels=labels
    )


def tar_members(path: Path, file: BinaryIO, start: int = 0) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yield the members of a tar, from byte `start` on, and where the next one begins.

    Raises:
        ValueError: the file is no tar, or is cut short: the text says how far it is whole.
    """
    last, size = "nothing", file.seek(0, os.SEEK_END)
    try:
        file.seek(start)
        outer = tarfile.TarFile(fileobj=file)
        while (member := outer.next()) is not None:
            outer.members = []  # type: ignore[attr-defined]  # it would keep all of them
            if member.offset_data + member.size > size:
                raise _cut_short(path, size, member.offset, last)
            if (member.issym() or member.islnk()) and _may_matter(member.name):
                raise ValueError(
                    f"{path}: {printable(member.name, lines=False)} is a link, which cannot be followed in an archive; "
                    "write it again with tar --dereference --hard-dereference"
                )
            end = outer.offset
            yield member, end
            last = member.name
        end = outer.offset
    except tarfile.TarError as error:
        file.seek(0)
        head = file.read(8)
        if kind := next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None):
            raise ValueError(
                f"{path} is compressed ({kind}), so that no image of it can be read alone; unpack it to a plain tar"
            ) from None
        if last == "nothing" and not start:
            raise ValueError(f"{path} is no tar archive, or an empty one; download it again") from None
        last = printable(last, lines=False)
        raise ValueError(f"{path} is damaged after {last} ({error}); download it again") from None
    if last == "nothing" and not start:
        raise ValueError(f"{path} is no tar archive, or an empty one; download it again")
    file.seek(max(0, end - 512))
    if not file.read(1024).strip(b"\0") == b"" and size - end < 512:
        raise _cut_short(path, size, end, last)


def _may_matter(name: str) -> bool:
    """Return True for the name of an image, or of what may be a folder of a class."""
    return name.lower().encode(errors="replace").endswith(EXTENSIONS) or not os.path.splitext(name)[1]


def _members(path: Path, file: io.BufferedReader, start: int) -> Iterator[tuple[_Files, int]]:
    """Yield the images of each member of the outer tar, and where the next member begins, from byte `start` on."""
    for member, end in tar_members(path, file, start):
        if member.isfile() and member.name.lower().endswith(".tar"):
            yield _inner(path, file, member), end
        elif member.isfile():
            yield _Files([_plain(member.name)], [member.offset_data], [member.size]), end


def _inner(path: Path, file: io.BufferedReader, member: tarfile.TarInfo) -> _Files:
    folder = _plain(member.name).removesuffix(b".tar")
    found = _Files([], [], [])
    window = _Window(file, member.offset_data, member.size)
    try:
        inner = tarfile.TarFile(fileobj=window)  # type: ignore[arg-type]
        while (image := inner.next()) is not None:
            inner.members = []  # type: ignore[attr-defined]
            if image.offset_data + image.size > member.size:
                raise tarfile.ReadError(f"{image.name} is cut off")
            if image.isfile():
                found.names.append(folder + b"/" + _plain(image.name))
                found.starts.append(member.offset_data + image.offset_data)
                found.lengths.append(image.size)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: {member.name} in it is damaged ({error}); download it again") from None
    return found


class _Window(io.RawIOBase):
    """A part of a file as a file, for reading."""

    def __init__(self, file: io.BufferedReader, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def _plain(name: str) -> bytes:
    return os.fsencode(os.path.basename(name))


def _cut_short(path: Path, size: int, whole: int, last: str) -> ValueError:
    last = printable(last, lines=False)
    return ValueError(
        f"{path} is cut short: of its {size:,} bytes the first {whole:,} are whole, up to {last}; download it again"
    )


def _cache_file(path: Path) -> Path | None:
    status = path.stat()
    key = f"{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns}"
    return cache_file("archives", os.fsencode(key), ".npz", what=WHAT)


def _load(cached: Path | None) -> tuple[Index | None, int, bool]:
    """Return the index, where the next member begins, and whether it is whole."""
    try:
        assert cached is not None
        with np.load(cached, allow_pickle=False) as arrays:
            lengths = arrays["name_lengths"]
            offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            left_out = json.loads(arrays["left_out"].tobytes())
            index = Index(arrays["names"], offsets, arrays["starts"], arrays["lengths"], left_out)
            if not len(lengths) == len(index.starts) == len(index.lengths) or offsets[-1] != len(index.names):
                raise ValueError("its parts are of different lengths")
            return index, int(arrays["done"]), bool(arrays["whole"])
    except (AssertionError, OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile):  # absent or torn
        return None, 0, False


def _save(cached: Path | None, index: Index, done: int, *, whole: bool) -> None:
    parts = {
        "names": index.names,
        "name_lengths": np.diff(index.offsets).astype(np.uint32),
        "starts": index.starts,
        "lengths": index.lengths,
        "left_out": np.frombuffer(json.dumps(index.left_out).encode(), np.uint8),
        "done": np.int64(done),
        "whole": np.bool_(whole),
    }
    keep(cached, lambda file: np.savez(file, **parts), what=WHAT)
