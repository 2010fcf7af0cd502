"""All that only a GPU can show, by one command, in calls of a few minutes: each goes on where the last one stopped.

    scripts/dev/gpu_report.sh --folder report                                 8 minutes of it; again for the next 8
    scripts/dev/gpu_report.sh --folder report --imagenette DIR --tiny-imagenet DIR --images DIR
    scripts/dev/gpu_report.sh --folder report --parts rates switches --minutes 20
    scripts/dev/gpu_report.sh --folder report --again rates                   measures that part again

The parts: pytest -m gpu; step rates of every network beside torchvision's reference and timm, with MFU and peak memory;
the gain of each switch; training from JPEGs; deterministic=true; a real out-of-memory; saving beside steps; training
for real. report.md and report.json in the folder have what is measured so far. Without a GPU it does the same on the
CPU at toy size. The exit code is 0 when all is measured, 75 when the same command goes on, 1 when an item failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_parts import Figures, Item, NotHereError, Part, Place, parts
from gpu_tables import markdown

from imgcls.errors import EXIT_REQUEUE, EXIT_RUN_FAILED, EXIT_USER_MISTAKE

LEAST_SECONDS = 45  # of a call that are left: with fewer no item is begun
FOLDERS = ("images", "imagenette", "tiny_imagenet")  # of data, by the options and the fields of Place
NEEDS_MORE = 10  # times the time of an item on a GPU that the CPU at toy size gets, which other work may slow down


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure until the minutes are up; return the exit code."""
    asked = make_parser().parse_args(arguments)
    folder: Path = asked.folder.resolve()
    place = _place(asked, folder)
    if asked.work:
        work(place, asked.work, until=asked.until)
        return 0
    known = {part.name: part for part in parts(place)}
    for name in (*asked.parts, *asked.again):
        if name not in known:
            print(f"error: there is no part {name}; the parts are {', '.join(known)}", file=sys.stderr)
            return EXIT_USER_MISTAKE
    for name in asked.again:
        for item in known[name].items:
            _file(folder, name, item.name).unlink(missing_ok=True)
    chosen = [known[name] for name in asked.parts] if asked.parts else list(known.values())
    (folder / "items").mkdir(parents=True, exist_ok=True)
    left = measure(place, chosen, until=time.time() + 60 * asked.minutes)
    done = _write_report(place, list(known.values()))
    print(f"{folder / 'report.md'}: {done} items")
    if left:
        print(f"{left} more items: the same command goes on")
        return EXIT_REQUEUE
    failed = [name for part in chosen for name in _failed(folder, part)]
    if failed:
        print(f"failed: {', '.join(failed)}")
        return EXIT_RUN_FAILED
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("gpu_report"), help="of the report (default: gpu_report)")
    parser.add_argument("--minutes", type=float, default=8, help="of this call (default: 8)")
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART", help="default: all eight")
    parser.add_argument("--again", nargs="+", default=[], metavar="PART", help="parts to measure again")
    parser.add_argument("--toy", action="store_true", help="toy sizes on a GPU too")
    parser.add_argument("--images", type=Path, help="a folder with train/ and val/ of JPEGs; default: some are drawn")
    parser.add_argument("--imagenette", type=Path, help="Imagenette's folder")
    parser.add_argument("--tiny-imagenet", type=Path, help="the folder tiny-imagenet-200")
    parser.add_argument("--networks", nargs="+", default=[], help="for the step rates (default: all)")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # the process that measures the items of this part
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return parser


def _place(asked: argparse.Namespace, folder: Path) -> Place:
    toy = asked.toy
    if not toy:
        import torch

        toy = not torch.cuda.is_available()
    folders = {key: getattr(asked, key) for key in FOLDERS}
    resolved = {key: None if path is None else path.resolve() for key, path in folders.items()}
    return Place(folder=folder, toy=toy, networks=tuple(asked.networks), **resolved)


def measure(place: Place, chosen: list[Part], *, until: float) -> int:
    """Measure what is not measured yet, each part in a separate process; return how many items are left."""
    for part in chosen:
        while waiting := _waiting(place, part):
            first = waiting[0]
            if until - time.time() < min(LEAST_SECONDS, first.needs):
                return sum(len(_waiting(place, each)) for each in chosen)
            stopped_early = _watch(place, part, until=until)
            if stopped_early:
                return sum(len(_waiting(place, each)) for each in chosen)
    return 0


def _watch(place: Place, part: Part, *, until: float) -> bool:
    """Run the process that measures a part's items, and stop an item that takes too long; True: the time is up."""
    command = [sys.executable, __file__, "--folder", str(place.folder), *(["--toy"] * place.toy)]
    for key in FOLDERS:
        if (folder := getattr(place, key)) is not None:
            command += [f"--{key.replace('_', '-')}", str(folder)]
    command += ["--networks", *place.networks] if place.networks else []
    log = place.folder / f"{part.name}.log"
    needs = {item.name: item.needs * (NEEDS_MORE if place.toy else 1) for item in part.items}
    with log.open("a") as out:
        worker = subprocess.Popen(
            [*command, "--work", part.name, "--until", str(until)],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a stop reaches the processes that it started, too
        )
        item, since = None, time.time()
        try:
            while worker.poll() is None:
                time.sleep(0.1)
                if (now := _begun(place, part)) != item:
                    item, since = now, time.time()
                if item is not None and time.time() - since > needs[item]:
                    _stop(worker)
                    _record(place, part.name, item, "failed", {"why": f"stopped after {needs[item]:.0f} s"})
                elif time.time() > until:
                    _stop(worker)
                    if item is not None:
                        print(f"{part.name}: {item} is begun again by the next call")
                    return True
        finally:
            _stop(worker)
    if worker.returncode > 0 and (item := _begun(place, part)) is not None:
        tail = log.read_text(errors="replace")[-600:]
        _record(place, part.name, item, "failed", {"why": f"its process ended with {worker.returncode}: {tail}"})
    elif worker.returncode > 0:
        for each in _waiting(place, part):
            _record(place, part.name, each.name, "failed", {"why": log.read_text(errors="replace")[-600:]})
    return worker.returncode == 0 and bool(_waiting(place, part))


def _stop(worker: "subprocess.Popen[bytes]") -> None:
    if worker.poll() is None:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def work(place: Place, name: str, *, until: float) -> None:
    """Measure the items of a part that are not measured yet, in this process, while the time is enough."""
    part = next(part for part in parts(place) if part.name == name)
    for item in _waiting(place, part):
        if until - time.time() < min(LEAST_SECONDS, item.needs):
            return
        _begun_file(place, part).write_text(item.name)
        print(f"--- {item.name}", flush=True)
        started = time.time()
        status, figures = _measure(item, place)
        _record(place, name, item.name, status, figures | {"took_s": time.time() - started})


def _measure(item: Item, place: Place) -> tuple[str, Figures]:
    try:
        return "measured", item.measure(place)
    except ModuleNotFoundError as error:
        return "not here", {"why": f"there is no package {error.name}"}
    except NotHereError as error:
        return "not here", {"why": str(error)}
    except Exception as error:
        traceback.print_exc()
        return "failed", {"why": f"{type(error).__name__}: {str(error)[:600]}"}


def _file(folder: Path, part: str, item: str) -> Path:
    plain = "".join(letter if letter.isalnum() else "_" for letter in item)
    return folder / "items" / f"{part}.{plain}.json"


def _begun_file(place: Place, part: Part) -> Path:
    return place.folder / "items" / f"{part.name}.begun"


def _begun(place: Place, part: Part) -> str | None:
    """Return the item that is being measured, or None."""
    file = _begun_file(place, part)
    name = file.read_text() if file.exists() else ""
    return name if name and not _file(place.folder, part.name, name).exists() else None


def _waiting(place: Place, part: Part) -> list[Item]:
    return [item for item in part.items if not _file(place.folder, part.name, item.name).exists()]


def _record(place: Place, part: str, item: str, status: str, figures: Figures) -> None:
    file = _file(place.folder, part, item)
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps({"part": part, "item": item, "status": status, **figures}, indent=1))
    partial.replace(file)
    print(f"{part}: {item}: {status}{' - ' + figures['why'] if 'why' in figures else ''}", flush=True)


def _recorded(folder: Path, part: Part) -> Iterator[dict[str, Any]]:
    for item in part.items:
        if (file := _file(folder, part.name, item.name)).exists():
            yield json.loads(file.read_text())


def _failed(folder: Path, part: Part) -> list[str]:
    return [f"{part.name}: {record['item']}" for record in _recorded(folder, part) if record["status"] == "failed"]


def _write_report(place: Place, every: list[Part]) -> str:
    """Write report.json and report.md, and return how many of the items are measured."""
    records = {part.name: list(_recorded(place.folder, part)) for part in every}
    from benchmark_report import machine

    about = {"machine": machine(), "date": time.strftime("%-d %B %Y"), "toy": place.toy}
    about |= {"place": {key: str(value) for key, value in asdict(place).items() if value}}
    (place.folder / "report.json").write_text(json.dumps({"about": about, "parts": records}, indent=1))
    (place.folder / "report.md").write_text(markdown(about, every, records))
    num_done = sum(map(len, records.values()))
    return f"{num_done} of {sum(len(part.items) for part in every)}"


if __name__ == "__main__":
    raise SystemExit(main())
