"""The pipelines that `benchmark.py loader` measures against each other: each turns JPEG files in memory to crops."""

import ctypes
import ctypes.util
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from imgcls.data.augment import RandomResizedCrop
from imgcls.data.decoding import FORMATS, Plan, decode_box, native, read_size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Work(NamedTuple):
    """A chunk of files, with what a pipeline that draws no boxes itself is given: boxes (N, 4), flips (N,)."""

    data: list[bytes]
    indices: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    flips: np.ndarray


class Peer(NamedTuple):
    """A pipeline, by name; `run` turns a chunk of files to `out` (N, H, W, 3) uint8, or to new tensors."""

    name: str
    run: Callable[[Work, np.ndarray], object]


def plan(image_size: int) -> Plan:
    """Random resized crops and flips, keyed as in training."""
    return Plan(RandomResizedCrop(), image_size=image_size, flip=0.5, seed=0)


def peers(image_size: int) -> tuple[list[Peer], list[str]]:
    """All pipelines that can run here, the reference first; and in words, those that cannot and why."""
    present = [torchvision_reference(image_size), torchvision_uint8(image_size)]
    missing = []
    try:
        present.append(cv2_whole())
        present.append(ffcv_algorithm())
    except ImportError:
        missing.append("cv2 and FFCV's algorithm: pip install opencv-python-headless")
    except OSError as error:
        missing.append(f"FFCV's algorithm: {error}")
    try:
        present.append(dali(image_size))
    except ImportError:
        missing.append("DALI: pip install nvidia-dali-cuda120")
    present += [ours_by_pillow(image_size), ours_by_pillow(image_size, draft=True)]
    if native.available():
        present.append(ours(image_size))
    else:
        missing.append(f"imgcls, native: {native.why_not()}")
    return present, missing


def torchvision_reference(image_size: int) -> Peer:
    """Return the transforms of torchvision's training example: Pillow, antialias, float, normalised."""
    from torchvision import transforms

    transform: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size, antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    def run(work: Work, _: np.ndarray) -> torch.Tensor:
        images: list[Any] = [
            transform(Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")) for data in work.data
        ]
        return torch.stack(images)

    return Peer("torchvision: Pillow, float", run)


def torchvision_uint8(image_size: int) -> Peer:
    """torchvision.io's decoder and its second transforms on bytes: the fastest that torchvision offers."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    transform = v2.Compose([v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()])

    def run(work: Work, _: np.ndarray) -> torch.Tensor:
        files = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in work.data]
        return torch.stack([transform(decode_jpeg(file, mode=ImageReadMode.RGB)) for file in files])

    return Peer("torchvision.io, v2, uint8", run)


def cv2_whole() -> Peer:
    """OpenCV: decode all of it, then INTER_AREA."""
    import cv2  # pyright: ignore[reportMissingImports]

    cv2.setNumThreads(0)

    def run(work: Work, out: np.ndarray) -> None:
        for data, box, flip, image in zip(work.data, work.boxes, work.flips, out, strict=True):
            pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            _resize(cv2, pixels, box, flip, image)

    return Peer("cv2, INTER_AREA", run)


def ffcv_algorithm() -> Peer:
    """Return what FFCV's RandomResizedCropRGBImageDecoder does: TurboJPEG with the fast DCT, then cv2.

    FFCV 1.0's libffcv.cpp decodes whole by tjDecompress2 with TJFLAG_FASTDCT into a buffer that it keeps, then takes
    cv2.resize INTER_AREA of the box. Boxes and sizes are given to it here for nothing.

    Raises:
        OSError: there is no libturbojpeg.
    """
    import cv2  # pyright: ignore[reportMissingImports]

    cv2.setNumThreads(0)
    name = ctypes.util.find_library("turbojpeg")
    if name is None:
        raise OSError("no libturbojpeg on this machine (Debian and Ubuntu: apt-get install libturbojpeg0)")
    library = ctypes.CDLL(name)
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjDecompress2.argtypes = [
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ]
    handle = library.tjInitDecompress()
    fast_dct, rgb = 2048, 0
    kept: dict[str, np.ndarray] = {"buffer": np.empty(0, np.uint8)}

    def run(work: Work, out: np.ndarray) -> None:
        for data, size, box, flip, image in zip(work.data, work.sizes, work.boxes, work.flips, out, strict=True):
            height, width = (int(side) for side in size)
            if kept["buffer"].size < height * width * 3:
                kept["buffer"] = np.empty(height * width * 3, np.uint8)
            pixels = kept["buffer"][: height * width * 3].reshape(height, width, 3)
            address = pixels.ctypes.data
            library.tjDecompress2(handle, data, len(data), address, width, 0, height, rgb, fast_dct)
            _resize(cv2, pixels, box, flip, image)

    return Peer("FFCV's algorithm (TurboJPEG, cv2)", run)


def dali(image_size: int) -> Peer:
    """NVIDIA DALI on the CPU: decoding fused with the crop, then an antialiased resize, one thread.

    Its own random crop would compare other work, so it is given the boxes and flips of the other pipelines.
    """
    from nvidia.dali import fn, pipeline_def, types  # type: ignore[import-not-found]

    inputs: dict[str, list[np.ndarray]] = {}

    def source(name: str, dtype: Any) -> Any:
        return fn.external_source(source=lambda: inputs[name], batch=True, dtype=dtype)

    # Neither pipelined nor asynchronous: a call does the work of its chunk, and no other's.
    @pipeline_def(batch_size=64, num_threads=1, device_id=None, exec_pipelined=False, exec_async=False)
    def pipeline() -> Any:
        crops = fn.decoders.image_slice(
            source("files", types.UINT8),
            source("anchors", types.FLOAT),
            source("shapes", types.FLOAT),
            normalized_anchor=False,
            normalized_shape=False,
            output_type=types.RGB,
        )
        resized = fn.resize(crops, size=[image_size] * 2, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(resized, horizontal=source("flips", types.INT32))

    built = pipeline()
    built.build()

    def run(work: Work, out: np.ndarray) -> None:
        boxes = np.rint(work.boxes).astype(np.float32)
        inputs["files"] = [np.frombuffer(data, np.uint8) for data in work.data]
        inputs["anchors"] = list(boxes[:, :2])
        inputs["shapes"] = list(np.maximum(boxes[:, 2:] - boxes[:, :2], 1))
        inputs["flips"] = list(work.flips.astype(np.int32))
        (images,) = built.run()
        out[:] = images.as_array()

    return Peer("DALI, CPU, fused crop", run)


def ours_by_pillow(image_size: int, *, draft: bool = False) -> Peer:
    """Return this package without its native decoder, and with data.pillow_draft=true if `draft`."""
    planned = plan(image_size)

    def run(work: Work, out: np.ndarray) -> None:
        sizes = np.array([read_size(data, "") for data in work.data])
        boxes, flips = planned.boxes(0, work.indices, sizes), planned.flips(0, work.indices)
        for data, box, flip, image in zip(work.data, boxes, flips, out, strict=True):
            decode_box(data, box, image, flip=bool(flip), name="", draft=draft)

    return Peer(f"imgcls, Pillow{', draft' if draft else ''}", run)


def ours(image_size: int) -> Peer:
    """Return this package, as a thread of its loader calls it."""
    space, planned = native.Workspace(), plan(image_size)

    def run(work: Work, out: np.ndarray) -> None:
        for first in range(0, len(work.data), 16):
            part = slice(first, first + 16)
            sizes, status = space.open_bytes(work.data[part])
            indices = work.indices[part]
            boxes = planned.boxes(0, indices, np.maximum(sizes, 1))
            flips = planned.flips(0, indices)
            status = space.decode(boxes, flips, out[part])
            for position in np.flatnonzero(status):
                data = work.data[first + position]
                size = np.array([read_size(data, "")])
                box = planned.boxes(0, indices[position : position + 1], size)[0]
                decode_box(data, box, out[first + position], flip=bool(flips[position]), name="")

    return Peer("imgcls, native", run)


def split_of_time(data: Sequence[bytes], paths: Sequence[str], image_size: int) -> dict[str, Callable[[], object]]:
    """Parts of the native decoder's work, each to be timed: all of it, reading files, headers, entropy decoding."""
    space, planned = native.Workspace(), plan(image_size)
    indices = np.arange(len(data))
    sizes, _ = space.open_bytes(data)
    boxes = planned.boxes(0, indices, np.maximum(sizes, 1))
    flips = planned.flips(0, indices)
    rows = np.ceil(boxes[:, 3]).astype(np.int32)
    out = np.empty((16, image_size, image_size, 3), np.uint8)
    parts = [slice(first, first + 16) for first in range(0, len(data), 16)]

    def read() -> None:
        for part in parts:
            for path in paths[part]:
                with open(path, "rb", buffering=0) as file:
                    file.readall()

    def headers() -> None:
        for part in parts:
            space.open_bytes(data[part])

    def entropy() -> None:
        for part in parts:
            space.open_bytes(data[part])
            space.skim(rows[part])

    def whole() -> None:
        for part in parts:
            space.open_bytes(data[part])
            space.decode(boxes[part], flips[part], out[: len(rows[part])])

    return {"read": read, "headers": headers, "entropy": entropy, "whole": whole}


def torchvision_loader(paths: Sequence[str], image_size: int, *, workers: int, batch_size: int) -> Any:
    """torchvision's reference as everyone runs it: a DataLoader over files, with worker processes."""
    from torchvision import transforms

    transform: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size, antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    dataset = Files(list(paths), transform)
    return torch.utils.data.DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, drop_last=True)


class Files(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Files by path, transformed."""

    def __init__(self, paths: list[str], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self.paths[index], "rb") as file:
            return self.transform(Image.open(file, formats=FORMATS).convert("RGB")), 0


@contextmanager
def torchvision_evaluation(folder: str, arch: str, *, threads: int, workers: int) -> Iterator[Callable[[], int]]:
    """Run the evaluation of torchvision's reference in another process: a call is a pass, and counts the images."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_evaluate_on_call, args=(there, folder, arch, threads, workers)
    )
    process.start()
    there.close()

    def run() -> int:
        here.send("go")
        return here.recv()

    try:
        here.recv()  # it is ready
        yield run
    finally:
        here.close()
        process.join()


def _evaluate_on_call(calls: Any, folder: str, arch: str, threads: int, workers: int) -> None:
    import torchvision
    from torchvision import transforms

    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torchvision.models.get_model(arch).to(device)
    transform = transforms.Compose(
        [
            transforms.Resize(256, antialias=True),
            transforms.CenterCrop(224),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(MEAN, STD),
        ]
    )
    images = torchvision.datasets.ImageFolder(folder, transform)
    loader = torch.utils.data.DataLoader(images, batch_size=32, num_workers=workers, pin_memory=device.type == "cuda")
    calls.send("ready")
    while True:
        try:
            calls.recv()
        except EOFError:
            return
        calls.send(_evaluate(model, loader, device))


def _evaluate(model: torch.nn.Module, loader: Any, device: torch.device) -> int:
    # As in torchvision's references/classification/train.py: loss, top-1 and top-5 of each batch.
    model.eval()
    count, loss, top1, top5 = 0, 0.0, 0.0, 0.0
    with torch.inference_mode():
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            output = model(images)
            right = output.topk(5, dim=1).indices == labels[:, None]
            loss += torch.nn.functional.cross_entropy(output, labels).item() * len(labels)
            top1 += right[:, 0].sum().item()
            top5 += right.sum().item()
            count += len(labels)
    return count


def image_paths(folder: str) -> list[str]:
    """Every image file below a folder, sorted."""
    files = [
        os.path.join(here, name)
        for here, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith((".jpg", ".jpeg"))
    ]
    if not files:
        raise FileNotFoundError(f"--data {folder} holds no .jpg or .jpeg file; name a folder of photos")
    return sorted(files)


def _resize(cv2: Any, pixels: np.ndarray, box: np.ndarray, flip: bool, out: np.ndarray) -> None:
    left, top, right, bottom = (int(edge) for edge in box)
    cv2.resize(pixels[top:bottom, left:right], out.shape[1::-1], dst=out, interpolation=cv2.INTER_AREA)
    if flip:
        cv2.flip(out, 1, dst=out)
