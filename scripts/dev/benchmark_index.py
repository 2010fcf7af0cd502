"""`benchmark.py index`: how long ImageNet's containers take to be indexed and opened, and how large the index is.

The files are made up: as many images as ImageNet has, with its names and labels, of a few bytes each, so that they fit
a disk. An index does not look into an image, so its size is that of the real one; real files take longer to be indexed.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmark_report import machine

from imgcls.data.sets import TRAIN_TAR, VAL_TAR, imagenet_classes, wnids

SHARD, FILES = 1000, 300  # images of a shard; parquet files
# Opens a set in a separate process: the index is read from the cache folder, the images are not looked at.
OPEN = """
import json, sys, time
from imgcls.data.sets import open_imagenet
started, used = time.perf_counter(), time.process_time()
images = open_imagenet(sys.argv[1])
seconds, cpu = time.perf_counter() - started, time.process_time() - used
words = open("/proc/self/status").read().split()
peak = int(words[words.index("VmHWM:") + 1]) * 1024
split = images.train
parts = list(getattr(split, "index", ())) + [value for value in vars(split).values()]
arrays = {id(part): part.nbytes for part in parts if hasattr(part, "nbytes")}
print(json.dumps([seconds, cpu, sum(arrays.values()), peak, len(split)]))
"""


class Made(NamedTuple):
    """An image that is made up: its class, from 0, the file's name without ending, and its bytes."""

    label: int
    stem: str
    data: bytes


def measure_index(asked: argparse.Namespace) -> None:
    """Make ImageNet up as archives, shards and parquet files; index it, then open it again."""
    print(f"{machine()}; {asked.images:,} training images that are made up, 50 for validation")
    print(
        f"{'':10}{'indexed in':>12}{'opened in':>12}{'CPU time':>10}{'index':>10}{'peak of the process':>22}"
        f"{'on disk':>10}"
    )
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="imgcls-index-") as scratch:
        for name, write in (("archives", write_archives), ("shards", write_shards), ("parquet", write_parquet)):
            if asked.form and name not in asked.form:
                continue
            root, cache = Path(scratch) / name, Path(scratch) / "cache" / name
            root.mkdir()
            write(root, asked.images)
            started = time.perf_counter()
            _open(root, cache)
            built = time.perf_counter() - started
            runs = sorted(_open(root, cache) for _ in range(asked.rounds))
            seconds, cpu, in_memory, peak, count = runs[len(runs) // 2]
            assert count == asked.images
            on_disk = sum(file.stat().st_size for file in cache.rglob("*.npz"))
            print(
                f"{name:10}{built:10.0f} s{seconds:10.2f} s{cpu:8.2f} s{in_memory / 1e6:7.1f} MB{peak / 1e6:19.0f} MB"
                f"{on_disk / 1e6:7.1f} MB",
                flush=True,
            )


def _open(root: Path, cache: Path) -> list[float]:
    environment = {**os.environ, "IMGCLS_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", OPEN, root], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ValueError(f"{root} cannot be opened: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def made_images(count: int) -> Iterator[Made]:
    """Yield training images, by class, called as ImageNet's are."""
    for number in range(count):
        label = number * 1000 // count
        yield Made(label, f"{wnids()[label]}_{number * 7919 % 99991}", b"\xff\xd8%016d" % number)


def made_validation() -> Iterator[Made]:
    """Yield validation images, one of each of the first classes."""
    for number in range(50):
        yield Made(number, f"ILSVRC2012_val_{number + 1:08}", b"\xff\xd8val%013d" % number)


def write_archives(root: Path, count: int) -> None:
    """The official archives, with a file of labels."""
    with tarfile.open(root / TRAIN_TAR, "w") as outer:
        inner, label = io.BytesIO(), 0
        for image in (*made_images(count), Made(-1, "", b"")):
            if image.label != label:
                _add(outer, f"{wnids()[label]}.tar", inner.getvalue() + bytes(1024))
                inner, label = io.BytesIO(), image.label
            inner.write(_member(f"{image.stem}.JPEG", image.data))
    with tarfile.open(root / VAL_TAR, "w") as archive:
        for image in made_validation():
            _add(archive, f"{image.stem}.JPEG", image.data)
    numbers = "".join(f"{imagenet_classes()[image.label].devkit_id}\n" for image in made_validation())
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text(numbers)


def write_shards(root: Path, count: int) -> None:
    """Shards of an image and its label each, as timm/imagenet-1k-wds has them."""
    for part, images in (("train", made_images(count)), ("validation", made_validation())):
        for number, group in enumerate(_groups(images, SHARD)):
            with (root / f"imagenet1k-{part}-{number:04}.tar").open("wb") as file:
                for image in group:
                    file.write(_member(f"{image.stem}.cls", b"%d" % image.label))
                    file.write(_member(f"{image.stem}.jpg", image.data))
                file.write(bytes(1024))


def write_parquet(root: Path, count: int) -> None:
    """Parquet files as the Hugging Face hub has imagenet-1k."""
    import pyarrow
    import pyarrow.parquet

    for part, images in (("train", made_images(count)), ("validation", made_validation())):
        for number, group in enumerate(_groups(images, -(-count // FILES))):
            rows = [{"bytes": image.data, "path": f"{image.stem}_{wnids()[image.label]}.JPEG"} for image in group]
            table = pyarrow.table({"image": rows, "label": [image.label for image in group]})
            pyarrow.parquet.write_table(table, root / f"{part}-{number:05}.parquet", row_group_size=100)


def _groups(images: Iterator[Made], size: int) -> Iterator[list[Made]]:
    group: list[Made] = []
    for image in images:
        group.append(image)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _member(name: str, data: bytes) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
