"""From a split to the pixels of a batch: read, plan the boxes, decode, crop, resample, mirror.

Three ways of holding a split give three ways to fill a part of a batch buffer; the loader does not know which it has.
"""

import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from imgcls.data.augment import Pad, PadCrop, Whole
from imgcls.data.decoding.pillow import (
    BadImageError,
    PixelRules,
    decode_box,
    is_turned,
    load_whole,
    read_size,
    resample_box,
    resample_loaded,
    shrink,
)
from imgcls.data.decoding.plan import Plan

if TYPE_CHECKING:
    from imgcls.data.decoding.native import Sizes, Workspace
Failures = list[tuple[int, BadImageError]]  # position in what was to be filled, and why it was not


class Reader(Protocol):
    """Fills parts of batch buffers, from any thread."""

    chunk_size: int  # images that are worth one call

    def fill(self, plan: Plan, epoch: int, indices: np.ndarray, out: np.ndarray) -> Failures:
        """Write the planned crops of images `indices` (n,) into `out` (n, H, W, C) uint8.

        An index beyond the end is another crop of an image: i + N is one of image i of N.
        """
        ...


class FileSource(Protocol):
    """Image files by index: what a split of files gives its reader."""

    rules: PixelRules

    def __len__(self) -> int: ...

    def path(self, index: int) -> str:
        """Return the name of image `index` for messages."""
        ...

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`.

        Raises:
            BadImageError: they cannot be read.
        """
        ...

    def open_in(self, space: "Workspace", indices: np.ndarray) -> "Sizes":
        """Load images `indices` into the native decoder's workspace; what it cannot read has the status UNREADABLE."""
        ...


class FileReader:
    """Decodes each time; only what the box needs, where the native decoder takes the file."""

    chunk_size = 16

    def __init__(self, files: FileSource) -> None:
        self.files = files
        self._native = _native()
        self._own = threading.local()

    def fill(self, plan: Plan, epoch: int, indices: np.ndarray, out: np.ndarray) -> Failures:
        drawn, indices = indices, indices % len(self.files)
        sizes = np.ones((len(indices), 2), np.int64)
        for_pillow: dict[int, bytes] = {}  # those that are Pillow's, by position
        space, failures = self._open(indices, sizes, for_pillow)
        for position in list(for_pillow):
            try:
                name = self.files.path(int(indices[position]))
                sizes[position] = read_size(for_pillow[position], name, self.files.rules)
            except BadImageError as error:
                failures.append((position, error))
                del for_pillow[position]
        boxes = plan.boxes(epoch, drawn, sizes)
        flips = plan.flips(epoch, drawn)
        if space is not None:
            bad = {position for position, _ in failures}
            if self.files.rules.orientation == "apply":  # boxes of turned images do not fit the native decoder
                boxes_of_native = boxes.copy()
                boxes_of_native[list(for_pillow)] = [0, 0, 1, 1]
            else:
                boxes_of_native = boxes
            status = space.decode(boxes_of_native, flips, out, interpolation=plan.interpolation)
            for position in np.flatnonzero(status):
                if position not in bad and position not in for_pillow:  # Pillow judges whether it is broken
                    for_pillow[int(position)] = space.contents(int(position))
        for position, data in for_pillow.items():
            name = self.files.path(int(indices[position]))
            try:
                decode_box(
                    data,
                    boxes[position],
                    out[position],
                    flip=bool(flips[position]),
                    name=name,
                    interpolation=plan.interpolation,
                    draft=plan.draft,
                    rules=self.files.rules,
                )
            except BadImageError as error:
                failures.append((position, error))
        return sorted(failures, key=lambda failure: failure[0])

    def _open(
        self, indices: np.ndarray, sizes: np.ndarray, for_pillow: dict[int, bytes]
    ) -> "tuple[Workspace | None, Failures]":
        # Reads the files; sets the sizes of those that the native decoder takes, and gives the others to Pillow.
        if self._native is None:
            data, failures = self._read(indices)
            for_pillow.update({position: one for position, one in enumerate(data) if one is not None})
            return None, failures
        if not hasattr(self._own, "space"):
            self._own.space = self._native.Workspace()
        space: Workspace = self._own.space
        failures: Failures = []
        native_sizes, status = self.files.open_in(space, indices)
        if (status == self._native.Status.UNREADABLE).any():
            # Read again, and still for the native decoder: Pillow's pixels may differ by a level.
            data, failures = self._read(indices)
            native_sizes, status = space.open_bytes(data)
        taken = status == 0
        sizes[taken] = native_sizes[taken]
        others = np.flatnonzero(~taken & (status != self._native.Status.UNREADABLE))
        for_pillow.update({int(position): space.contents(int(position)) for position in others})
        if self.files.rules.orientation == "apply":  # the native decoder turns nothing
            self._give_turned_to_pillow(space, np.flatnonzero(taken), for_pillow)
        return space, failures

    def _give_turned_to_pillow(self, space: "Workspace", positions: np.ndarray, for_pillow: dict[int, bytes]) -> None:
        for position in positions.tolist():
            data = space.contents(position)
            try:
                if is_turned(data, self.files.rules, ""):
                    for_pillow[position] = data
            except BadImageError:  # Pillow cannot open what the native decoder can: as it is stored, then
                continue

    def _read(self, indices: np.ndarray) -> tuple[list[bytes | None], Failures]:
        data: list[bytes | None] = []
        failures: Failures = []
        for position, index in enumerate(indices.tolist()):
            try:
                data.append(self.files.read(index))
            except BadImageError as error:
                data.append(None)
                failures.append((position, error))
        return data, failures


class CachingReader:
    """Decodes each image once, whole, and keeps it: for small sets that are Pillow's to decode.

    The pixels are those of `FileReader`: where Pillow would draft an image at a reduced size, so does this, each time.
    """

    chunk_size = 32

    def __init__(self, files: FileSource, channels: int) -> None:
        self.files = files
        self.channels = channels
        self.images: list[Image.Image | None] = [None] * len(files)

    def fill(self, plan: Plan, epoch: int, indices: np.ndarray, out: np.ndarray) -> Failures:
        drawn, indices = indices, indices % len(self.files)
        failures: Failures = []
        sizes = np.ones((len(indices), 2), np.int64)
        images: dict[int, Image.Image] = {}
        for position, index in enumerate(indices.tolist()):
            try:
                image = images[position] = self._whole(index)
                sizes[position] = image.height, image.width
            except BadImageError as error:
                failures.append((position, error))
        boxes = plan.boxes(epoch, drawn, sizes)
        flips = plan.flips(epoch, drawn)
        for position, image in images.items():
            index, box = int(indices[position]), boxes[position]
            how: dict[str, Any] = {"flip": bool(flips[position]), "interpolation": plan.interpolation}
            try:
                if plan.draft and shrink(image, box, out[position]) > 1:
                    data, name = self.files.read(index), self.files.path(index)
                    decode_box(data, box, out[position], name=name, draft=True, rules=self.files.rules, **how)
                else:
                    resample_loaded(image, box, out[position], **how)
            except BadImageError as error:
                failures.append((position, error))
        return sorted(failures, key=lambda failure: failure[0])

    def _whole(self, index: int) -> Image.Image:
        image = self.images[index]
        if image is None:  # two threads may both decode it: to the same
            data, name = self.files.read(index), self.files.path(index)
            image = self.images[index] = load_whole(data, self.channels, name, self.files.rules)
        return image


class Windows(NamedTuple):
    """Where each image of a split is copied from: left and top (N, 2) int64, and whether mirrored (N,) bool."""

    corners: np.ndarray
    flips: np.ndarray


class CopyingReader:
    """Windows of images of one size that are already an array: a batch is one gather.

    Windows are drawn for a whole epoch at once: batch by batch, the drawing would cost a tenth of the copying.
    """

    chunk_size = 1 << 16

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self._drawn: tuple[int, Windows] | None = None

    def fill(self, plan: Plan, epoch: int, indices: np.ndarray, out: np.ndarray) -> Failures:
        if len(indices) and indices.max() >= len(self.images):
            windows = windows_of(self.images, plan, epoch, indices)
            corners, flips, indices = windows.corners, windows.flips, indices % len(self.images)
        else:
            windows = self._windows(plan, epoch)
            corners, flips = windows.corners[indices], windows.flips[indices]
        _copy(self.images, indices, corners, out)
        if flips.any():
            out[flips] = out[flips, :, ::-1]
        return []

    def _windows(self, plan: Plan, epoch: int) -> Windows:
        drawn = self._drawn
        if drawn is None or drawn[0] != epoch:  # two threads may both draw them: the same
            drawn = self._drawn = epoch, windows_of(self.images, plan, epoch, np.arange(len(self.images)))
        return drawn[1]


class ArrayReader:
    """Crops that are resampled from images of one size that are already an array."""

    chunk_size = 1 << 16

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def fill(self, plan: Plan, epoch: int, indices: np.ndarray, out: np.ndarray) -> Failures:
        images = self.images
        sizes = np.broadcast_to(np.array(images.shape[1:3]), (len(indices), 2))
        boxes = plan.boxes(epoch, indices, sizes)
        flips = plan.flips(epoch, indices)
        for position, index in enumerate(indices % len(images)):
            flip, interpolation = bool(flips[position]), plan.interpolation
            resample_box(images[index], boxes[position], out[position], flip=flip, interpolation=interpolation)
        return []


def make_array_reader(images: np.ndarray, plan: Plan) -> Reader:
    """Return what reads crops of images (N, H, W, C) that are decoded already."""
    return CopyingReader(images) if only_copies(images, plan) else ArrayReader(images)


def make_file_reader(files: FileSource, channels: int, *, cache_gb: float) -> Reader:
    """Return what reads crops of image files; they are kept decoded where that is faster and fits in `cache_gb`.

    The native decoder reads a file from the page cache, decodes and resamples it in less time than Pillow needs to
    resample kept pixels (71 against 113 microseconds for the shapes at 72 px), and rounds otherwise in rare pixels; so
    only a set of which it takes no file is kept, and cache_gb never changes a pixel.
    """
    if cache_gb <= 0 or _native_takes_some(files):
        return FileReader(files)
    fits = _all_fit_and_are_pillows(files, channels, num_bytes=cache_gb * 1e9)
    return CachingReader(files, channels) if fits else FileReader(files)


def only_copies(images: np.ndarray, plan: Plan) -> bool:
    """Return True if the plan's boxes have the output's size, in whole pixels, whatever is drawn."""
    if not isinstance(plan.crop, Whole | Pad | PadCrop) or not len(images):
        return False
    box = plan.boxes(0, np.zeros(1, np.int64), np.array([images.shape[1:3]]))[0]
    return bool((box == np.rint(box)).all() and (box[2:] - box[:2] == plan.image_size[::-1]).all())


def windows_of(images: np.ndarray, plan: Plan, epoch: int, indices: np.ndarray) -> Windows:
    """Return the windows of images `indices` (n,), of a plan whose crop `copies`."""
    sizes = np.broadcast_to(np.array(images.shape[1:3]), (len(indices), 2))
    return Windows(plan.boxes(epoch, indices, sizes)[:, :2].astype(np.int64), plan.flips(epoch, indices))


def describe_decoder() -> str:
    """Return which decoder reads JPEG files and, if it is the slow one, how to get the fast one."""
    try:
        from imgcls.data.decoding import native
    except ImportError as error:
        return f"Pillow ({error})"
    return "libjpeg-turbo, native" if native.available() else f"Pillow ({native.why_not()})"


def _native() -> ModuleType | None:
    try:
        from imgcls.data.decoding import native
    except ImportError:
        return None
    return native if native.available() else None


def _native_takes_some(files: FileSource, *, num_tried: int = 32) -> bool:
    # Tried on a few from all over the split, so that a large set of JPEGs is not read through.
    if (native := _native()) is None:
        return False
    some = np.unique(np.linspace(0, len(files) - 1, num_tried).astype(np.int64))
    return bool((files.open_in(native.Workspace(), some).status == 0).any())


def _all_fit_and_are_pillows(files: FileSource, channels: int, *, num_bytes: float) -> bool:
    # Reads headers until the budget is spent, so a set too large to keep costs no more than one that is kept.
    native = _native()
    space = None if native is None else native.Workspace()
    bytes_a_pixel = 4 if channels == 3 else 1  # Pillow pads RGB to 32 bits
    left = num_bytes
    for index in range(len(files)):
        try:
            data = files.read(index)
            height, width = read_size(data, files.path(index))
        except BadImageError:
            continue  # named when its turn comes
        left -= height * width * bytes_a_pixel
        if left < 0 or (space is not None and space.open_bytes([data]).status[0] == 0):
            return False
    return True


def _copy(images: np.ndarray, indices: np.ndarray, corners: np.ndarray, out: np.ndarray) -> None:
    # Boxes of the output's own size, possibly past the edge, where it is black.
    height, width = images.shape[1:3]
    rows, columns = out.shape[1:3]
    if (rows, columns) == (height, width) and not corners.any():
        np.take(images, indices, axis=0, out=out)
        return
    before = np.maximum(-corners.min(axis=0), 0)
    after = np.maximum(corners.max(axis=0) + np.array([columns - width, rows - height]), 0)
    padded = np.zeros(
        (len(indices), before[1] + height + after[1], before[0] + width + after[0], out.shape[3]), np.uint8
    )
    padded[:, before[1] : before[1] + height, before[0] : before[0] + width] = images[indices]
    # A copy of each window in turn is several times faster here than one fancy index.
    for window, image, (left, top) in zip(out, padded, (corners + before).tolist(), strict=True):
        window[:] = image[top : top + rows, left : left + columns]
