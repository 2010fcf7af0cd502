"""Measure the training loader on shards that are streamed from a local web server, beside the same shards on the disk.

    python scripts/dev/benchmark_streaming.py data=folder data.root=DIR

The images of a set are written into shards, copied until there are enough. Epochs of both are timed in turn.
"""

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from imgcls.config import compose
from imgcls.data.augment import RandomResizedCrop
from imgcls.data.loading import Loader
from imgcls.data.sets import FileSplit, open_image_set

NUM_SHARDS, SHARD_BYTES, PORT = 12, 24e6, 8932
EPOCHS = 3


def write_shards(split: FileSplit, folder: Path) -> int:
    """Write the images of a split into shards, from the first again once all are written; return how many."""
    number = 0
    for shard in range(NUM_SHARDS + 1):
        name, size = (f"x-train-{shard:04}.tar", SHARD_BYTES) if shard < NUM_SHARDS else ("x-val-0000.tar", 1e6)
        with tarfile.open(folder / name, "w") as archive:
            while archive.offset < size:
                index = (number * 997) % len(split)
                for ending, data in (("jpg", split.read(index)), ("cls", b"%d" % (number % 2))):
                    member = tarfile.TarInfo(f"{number:07}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                number += 1
    return number


def loader_of(*words: str) -> Loader:
    images = open_image_set(compose(["data=webdataset", *words]))
    return Loader(images.train, RandomResizedCrop(), image_size=224, batch_size=64, seed=0, shuffle=True, num_threads=1)


def seconds(loader: Loader, epoch: int) -> float:
    """Return the seconds of an epoch from its first batch on: before it, the first window of a run is fetched."""
    batches = loader.epoch(epoch)
    next(batches)
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


def main(words: list[str]) -> None:
    split = open_image_set(compose(words)).train
    assert isinstance(split, FileSplit)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shards"
        folder.mkdir()
        num = write_shards(split, folder)
        os.environ["IMGCLS_CACHE"] = str(Path(place) / "cache")
        serve = [sys.executable, "-m", "http.server", str(PORT), "--bind", "127.0.0.1", "--directory", str(folder)]
        with subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                time.sleep(2)
                url = f"http://127.0.0.1:{PORT}/x-{{train-{{0000..{NUM_SHARDS - 1:04}}},val-0000}}.tar"
                budget = 6.3 * SHARD_BYTES / 1e9  # about half of the set
                started = time.perf_counter()
                streamed = loader_of(f"data.root='{url}'", f"data.stream_gb={budget}")
                print(f"{num:,} images in {NUM_SHARDS} shards; the index by the network took", end=" ")
                print(f"{time.perf_counter() - started:.1f} s, streamed through {budget:.3f} GB")
                local = loader_of(f"data.root={folder}")
                images = (local.num_batches - 1) * 64
                ratios = []
                for epoch in range(EPOCHS):
                    on_disk, by_stream = seconds(local, epoch), seconds(streamed, epoch)
                    ratios.append(on_disk / by_stream)
                    print(f"images a second: {images / on_disk:.0f} on the disk, {images / by_stream:.0f} streamed")
                print(f"streamed at {statistics.median(ratios):.2f} of the rate on the disk (median)")
            finally:
                server.terminate()


if __name__ == "__main__":
    main(sys.argv[1:])
