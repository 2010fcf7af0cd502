"""What it costs that a run cannot be lost: of saving every minute, and of draws that a stop does not change.

    python scripts/dev/measure_costs.py saving                    ResNet-18, on this machine's device
    python scripts/dev/measure_costs.py exactness --images DIR    a flat folder of JPEGs

Exactness is measured against the same loader with numpy's global generator, as loaders commonly draw; in CPU seconds,
which a busy machine disturbs less than the clock, and in turns.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgcls.data.augment import PadCrop, RandomResizedCrop, keyed_random
from imgcls.data.sets import ArraySplit, FolderSplit

if TYPE_CHECKING:
    from imgcls.data.loading import Loader

ROUNDS = 8


def saving(rounds: int = ROUNDS) -> dict[str, float]:
    """Train ResNet-18 on noise, and return how many seconds of steps a checkpoint takes away."""
    import torch  # here: `--help` does not wait for torch
    import torch.nn.functional as F

    from imgcls.checkpoints import CheckpointFile, CheckpointWriter, save_checkpoint
    from imgcls.models import ResNet

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch_size, size = (128, 224) if device.type == "cuda" else (4, 128)
    model = ResNet(depth=18).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = torch.randn(batch_size, 3, size, size, device=device)
    labels = torch.arange(batch_size, device=device)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def snapshot() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    for _ in range(3):
        step()
    writer, waits, losses, in_loop = CheckpointWriter(), [], [], []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        last, previous = Path(folder) / "last.pt", Path(folder) / "previous.pt"
        for _ in range(rounds):
            num, started = 0, time.perf_counter()
            while time.perf_counter() < started + 2:
                step()
                num += 1
            one_step = (time.perf_counter() - started) / num
            started = time.perf_counter()
            writer.write(CheckpointFile(snapshot(), last, previous))
            waits.append(time.perf_counter() - started)
            num, started = 0, time.perf_counter()
            while writer.busy:
                step()
                num += 1
            losses.append(time.perf_counter() - started - num * one_step)
            writer.wait()
            started = time.perf_counter()
            save_checkpoint(snapshot(), Path(folder) / "in_loop.pt")
            in_loop.append(time.perf_counter() - started)
        megabytes = last.stat().st_size / 1e6
    waited, lost, instead = (statistics.median(seconds) for seconds in (waits, losses, in_loop))
    print(f"ResNet-18 and its momentum, {megabytes:.0f} MB, on {device}, medians of {rounds}:")
    print(f"  the loop waits for the copy      {1000 * waited:4.0f} ms")
    print(f"  its steps beside the thread lose {1000 * lost:4.0f} ms")
    print(f"  saved every minute               {100 * (waited + max(lost, 0)) / 60:4.2f} % of the time")
    print(f"  written in the loop instead      {1000 * instead:4.0f} ms, {100 * instead / 60:4.2f} %")
    return {"megabytes": megabytes, "waited_s": waited, "lost_s": lost, "in_loop_s": instead}


def exactness(images: Path) -> None:
    """Load the same images with keyed draws and with numpy's global ones."""
    from imgcls.data.loading import Loader

    names = sorted(path.name.encode() for path in images.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))[:512]
    if len(names) < 64:
        raise SystemExit(f"error: --images {images} holds {len(names)} JPEGs; at least 64 are needed")
    jpegs = FolderSplit.of_names(images, names)
    small = ArraySplit(np.zeros((50_000, 32, 32, 3), np.uint8), np.zeros(50_000, np.int64))
    for text, split, crop, size in (
        ("JPEGs, random crop resized to 224 px", jpegs, RandomResizedCrop(), 224),
        ("arrays of 32 px in memory, padded and cropped", small, PadCrop(padding=4), 32),
    ):
        loader = Loader(split, crop, image_size=size, batch_size=64, seed=0, shuffle=True, flip=0.5, num_threads=1)
        times: dict[str, list[float]] = {"keyed": [], "global": []}
        cpu_seconds(loader, 0)
        for epoch in range(1, ROUNDS + 1):
            for kind in ("keyed", "global") if epoch % 2 else ("global", "keyed"):
                with_draws(kind)
                times[kind].append(cpu_seconds(loader, epoch))
        loader.close()
        per_image = {kind: 1e6 * statistics.median(seconds) / loader.num_images for kind, seconds in times.items()}
        share = 100 * (per_image["keyed"] / per_image["global"] - 1)
        print(f"{text}: {per_image['keyed']:.1f} us an image keyed, {per_image['global']:.1f} global: {share:+.2f} %")


KEYED = keyed_random.uniforms, keyed_random.permutation


def with_draws(kind: str) -> None:
    """Let the loader draw from numpy's global generator, or by key as it does."""
    if kind == "keyed":
        keyed_random.uniforms, keyed_random.permutation = KEYED
        return
    keyed_random.uniforms = lambda seed, epoch, indices, num_draws, *, stream=0: np.random.random(
        (len(indices), num_draws)
    )
    keyed_random.permutation = lambda num, seed, epoch: np.random.permutation(num)


def cpu_seconds(loader: "Loader", epoch: int) -> float:
    started = time.process_time()
    for _ in loader.epoch(epoch):
        pass
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("saving", "exactness"))
    parser.add_argument("--images", type=Path, help="a flat folder of JPEGs, for exactness")
    options = parser.parse_args()
    if options.what == "saving":
        saving()
    elif options.images is None or not options.images.is_dir():
        parser.error(f"--images {options.images}: name a flat folder of JPEGs")
    else:
        exactness(options.images)


if __name__ == "__main__":
    main()
