"""`benchmark.py loader`: decoders and loaders against the usual ones."""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from benchmark_peers import Peer, Work, image_paths, peers, plan, split_of_time, torchvision_loader
from benchmark_report import cpu_seconds, machine, print_table, resident_bytes, take_turns

from imgcls.data.augment import RandomResizedCrop
from imgcls.data.decoding import BadImageError, decode_whole, native, read_size
from imgcls.data.loading import Loader
from imgcls.data.sets import FileSplit, FolderSplit, PackSplit, open_pack

CHUNK = 50  # images that a pipeline decodes in one turn


def measure_loader(asked: argparse.Namespace) -> None:
    """Decoders on bytes in memory, one thread each; then whole loaders over the files."""
    torch.set_num_threads(1)
    if asked.images < 1:
        raise ValueError(f"--images {asked.images}; use 1 or more")
    paths = image_paths(asked.data)
    paths = paths[:: max(1, len(paths) // asked.images)][: asked.images]
    data, paths = decodable(paths)
    print(f"{machine()}; {len(data)} files of {np.mean([len(one) for one in data]) / 1e3:.0f} KB")
    packs = [_open_pack(pack) for pack in asked.pack]
    if len({pack.name for pack in packs}) < len(packs):
        raise ValueError("--pack: two packs of one kind; name a lossless and a lossy one")
    _compare_decoders(data, paths, packs, asked)
    if native.available():
        _split_time(data, paths, asked)
    _compare_loaders(paths, packs, asked)


class Pack(NamedTuple):
    """A pack of the images that are measured."""

    name: str
    split: PackSplit  # of its training images, for the loaders
    files: dict[str, tuple[PackSplit, int]]  # by path below --data

    def read(self, paths: list[str], data: str) -> list[bytes]:
        """Return the packed files of images by their paths.

        Raises:
            ValueError: one is not in the pack.
        """
        names = [os.path.relpath(path, data) for path in paths]
        if missing := [name for name in names if name not in self.files]:
            raise ValueError(
                f"{self.name} lacks {len(missing)} images of --data ({missing[0]}, ...); pack the same folder"
            )
        return [split.read(index) for split, index in map(self.files.__getitem__, names)]


def _compare_decoders(data: list[bytes], paths: list[str], packs: list[Pack], asked: argparse.Namespace) -> None:
    present, missing = peers(asked.image_size)
    jobs = {peer.name: (peer, work_of(data, asked.image_size)) for peer in present}
    ours = present[-1]
    packed = {f"{ours.name}, from {pack.name}": pack.read(paths, asked.data) for pack in packs}
    jobs |= {name: (ours, work_of(files, asked.image_size)) for name, files in packed.items()}
    out = np.empty((CHUNK, asked.image_size, asked.image_size, 3), np.uint8)
    seconds = take_turns(
        {
            name: [lambda peer=peer, work=work: peer.run(work, out[: len(work.data)]) for work in works]
            for name, (peer, works) in jobs.items()
        },
        rounds=asked.rounds,
    )
    per_image = {name: [s / sum(len(w.data) for w in jobs[name][1]) for s in seconds[name]] for name in jobs}
    print(f"\ndecoding {asked.image_size} px crops from bytes in memory, one thread, {asked.rounds} rounds, CPU time:")
    print_table(per_image)
    for name in missing:
        print(f"  not here: {name}")
    for name, files in packed.items():
        faster = statistics.median(a / b for a, b in zip(per_image[ours.name], per_image[name], strict=True))
        share = sum(map(len, files)) / sum(map(len, data))
        num_same = _num_same(ours, jobs[ours.name][1], jobs[name][1], out)
        print(
            f"{name}: {faster:.2f} times {ours.name} from the files; {share:.3f} of their bytes; "
            f"{num_same} of {len(data)} crops the same to the bit"
        )


def _num_same(peer: Peer, works: list[Work], others: list[Work], out: np.ndarray) -> int:
    """Return how many crops of two sets of the same images are the same to the bit."""
    num_same = 0
    for work, other in zip(works, others, strict=True):
        part = out[: len(work.data)]
        peer.run(work, part)
        crops = part.copy()
        peer.run(other, part)
        num_same += int((crops == part).all(axis=(1, 2, 3)).sum())
    return num_same


def _split_time(data: list[bytes], paths: list[str], asked: argparse.Namespace) -> None:
    parts = split_of_time(data, paths, asked.image_size)
    seconds = take_turns({name: [run] for name, run in parts.items()}, rounds=asked.rounds)
    read, headers, entropy, whole = (statistics.median(seconds[name]) / len(data) * 1e6 for name in parts)
    total = read + whole
    print(
        f"\nwhere the native decoder's {total:.0f} us of an image go: reading the file {read / total:.0%}, "
        f"headers {headers / total:.0%}, entropy decoding {(entropy - headers) / total:.0%}, "
        f"the rest (DCT, colour, resampling) {(whole - entropy) / total:.0%}"
    )


def _compare_loaders(paths: list[str], packs: list[Pack], asked: argparse.Namespace) -> None:
    split = FolderSplit.of_files(paths)
    batch_size = min(64, len(paths))
    threads = sorted({1, asked.threads})
    loaders: dict[str, Callable[[int], int]] = {
        f"imgcls, {number} thread{'s' * (number > 1)}": _epochs_of(split, batch_size, asked.image_size, number)
        for number in threads
    }
    for pack in packs:
        name = f"imgcls from {pack.name}, {asked.threads} thread{'s' * (asked.threads > 1)}"
        loaders[name] = _epochs_of(pack.split, batch_size, asked.image_size, asked.threads)

    def usual(epoch: int) -> int:
        loader = torchvision_loader(paths, asked.image_size, workers=asked.threads, batch_size=batch_size)
        return sum(len(images) for images, _ in loader)

    loaders[f"torchvision, DataLoader, {asked.threads} workers"] = usual
    wall: dict[str, list[float]] = {name: [] for name in loaders}
    cpu: dict[str, list[float]] = {name: [] for name in loaders}
    for epoch in range(asked.rounds):
        for name, run in loaders.items():
            started, used = time.perf_counter(), cpu_seconds()
            count = run(epoch)
            wall[name].append((time.perf_counter() - started) / count)
            cpu[name].append((cpu_seconds() - used) / count)
    reference = list(loaders)[-1]
    print("\nwhole loaders over the files, wall time (what other work on the machine leaves):")
    print_table({reference: wall[reference], **wall})
    print("the same, CPU time of all threads and processes:")
    print_table({reference: cpu[reference], **cpu})
    _watch_memory(loaders[f"imgcls, {asked.threads} thread{'s' * (asked.threads > 1)}"])


def _watch_memory(run: Callable[[int], int], *, epochs: int = 10) -> None:
    run(0)
    held = []
    for epoch in range(1, epochs + 1):
        run(epoch)
        held.append(resident_bytes())
    grown = (held[-1] / held[0] - 1) * 100
    print(f"memory over {epochs} epochs: {held[0] / 2**20:.0f} MiB, then {grown:+.2f} %")


def _epochs_of(split: FileSplit, batch_size: int, image_size: int, num_threads: int) -> Callable[[int], int]:
    crop = RandomResizedCrop()
    loader = Loader(
        split,
        crop,
        **{"image_size": image_size, "batch_size": batch_size, "seed": 0, "shuffle": True, "flip": 0.5},
        num_threads=num_threads,
    )
    return lambda epoch: sum(len(batch.labels) for batch in loader.epoch(epoch))


def _open_pack(path: str) -> Pack:
    """Open a pack; its images are found by their paths in the folder that was packed, or in a folder of it."""
    opened = open_pack(path)
    files: dict[str, tuple[PackSplit, int]] = {}
    for part in (opened.val, opened.train):
        assert isinstance(part, PackSplit)
        for index in range(len(part)):
            name = os.fsdecode(part.name(index))
            for shorter in (name, name.partition("/")[2], os.path.basename(name)):  # train/<class>/<file>
                files[shorter] = part, index
    assert isinstance(opened.train, PackSplit)
    kind = "lossless" if opened.train.takes_rules else "lossy"
    return Pack(f"the {kind} pack", opened.train, files)


def decodable(paths: list[str]) -> tuple[list[bytes], list[str]]:
    data, good = [], []
    for path in paths:
        content = Path(path).read_bytes()
        try:
            decode_whole(content, 3, path)
        except BadImageError as error:
            print(f"left out: {error}")
            continue
        data.append(content)
        good.append(path)
    if not data:
        raise ValueError("--data: none of the images that were taken can be decoded; name a folder of photos")
    return data, good


def work_of(data: list[bytes], image_size: int) -> list[Work]:
    """Chunks of files, with the boxes that pipelines are given which draw none."""
    planned, indices = plan(image_size), np.arange(len(data))
    sizes = np.array([read_size(one, "") for one in data])
    boxes, flips = planned.boxes(0, indices, sizes), planned.flips(0, indices)
    parts = [slice(first, first + CHUNK) for first in range(0, len(data), CHUNK)]
    return [Work(data[part], indices[part], sizes[part], boxes[part], flips[part]) for part in parts]
