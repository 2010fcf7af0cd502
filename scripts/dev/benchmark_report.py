"""Clocks, turns and tables that the benchmarks share."""

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from imgcls.config import Config
from imgcls.environment import default_num_threads


def take_turns(jobs: dict[str, list[Callable[[], object]]], *, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each job in each round; jobs take turns piece by piece, each round in another order."""
    names = list(jobs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, rounds):  # the first warms up
        spent = dict.fromkeys(names, 0.0)
        for piece in range(max(map(len, jobs.values()))):
            at = (turn + piece) % len(names)
            for name in names[at:] + names[:at]:
                if piece < len(jobs[name]):
                    started = time.process_time()
                    jobs[name][piece]()
                    spent[name] += time.process_time() - started
        if turn >= 0:
            for name in names:
                seconds[name].append(spent[name])
    return seconds


def print_table(seconds: dict[str, list[float]]) -> None:
    """Images/s by seconds an image, and the ratio to the first row: medians, the least and the greatest."""
    reference = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratios = [one / other for one, other in zip(reference, times, strict=True)]
        print(
            f"  {name:<38} {1 / statistics.median(times):>9,.0f} images/s   "
            f"{statistics.median(ratios):5.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def shown(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def cpu_seconds() -> float:
    """Return the CPU time of this process, its threads, and its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def resident_bytes() -> int:
    """Return the memory of this process now, or its peak where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine() -> str:
    name = ""
    if (info := Path("/proc/cpuinfo")).exists():
        name = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), "")
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name or 'unknown CPU'}, {default_num_threads()} cores{gpu}{load}; torch {torch.__version__}"


def describe(config: Config) -> str:
    name = str(config.model.get("arch") or config.model["_target_"]).rpartition(".")[2]
    settings = dataclasses.asdict(config)
    keys = ("batch_size", "image_size", "precision", "microbatch", "channels_last", "compile")
    return f"{name}: " + ", ".join(f"{key}={settings[key]}" for key in keys)
