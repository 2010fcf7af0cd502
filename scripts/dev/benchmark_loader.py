"""`benchmark.py loader`: decoders and loaders against the usual ones."""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmark_peers import Work, image_paths, peers, plan, split_of_time, torchvision_loader
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
    _compare_decoders(data, asked)
    if native.available():
        _split_time(data, paths, asked)
    _compare_loaders(paths, asked)


def _compare_decoders(data: list[bytes], asked: argparse.Namespace) -> None:
    present, missing = peers(asked.image_size)
    jobs = {peer.name: (peer, work_of(data, asked.image_size)) for peer in present}
    if asked.pack:
        split = _of_pack(asked.pack)
        some = np.unique(np.linspace(0, len(split) - 1, len(data)).astype(np.int64))
        packed = [split.read(int(index)) for index in some]
        ours = present[-1]
        jobs[f"{ours.name}, from the pack"] = (ours, work_of(packed, asked.image_size))
        print(f"the pack: {np.mean([len(one) for one in packed]) / 1e3:.0f} KB a file")
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


def _compare_loaders(paths: list[str], asked: argparse.Namespace) -> None:
    split = FolderSplit.of_files(paths)
    batch_size = min(64, len(paths))
    threads = sorted({1, asked.threads})
    loaders: dict[str, Callable[[int], int]] = {
        f"imgcls, {number} thread{'s' * (number > 1)}": _epochs_of(split, batch_size, asked.image_size, number)
        for number in threads
    }
    if asked.pack:
        loaders[f"imgcls from the pack, {asked.threads} threads"] = _epochs_of(
            _of_pack(asked.pack), batch_size, asked.image_size, asked.threads
        )

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


def _of_pack(path: str) -> PackSplit:
    split = open_pack(path).train
    assert isinstance(split, PackSplit)
    return split


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
