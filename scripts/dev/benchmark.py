"""Measure where the time goes: reading and decoding images, the training step, or both together.

    python scripts/benchmark.py loader --data /data/imagenet/train     decoders and loaders, against the usual ones
    python scripts/benchmark.py loader --data DIR --pack a.pack        and from a pack of the same images
    python scripts/benchmark.py step model=resnet50 batch_size=64      the step alone, on noise
    python scripts/benchmark.py train model=resnet50 data=imagenet data.root=DIR
    python scripts/benchmark.py evaluate --data imagenet/val           testing by the centre crop, against torchvision's
    python scripts/benchmark.py small --root MNIST_FOLDER              LeNet-5 on MNIST, against a DataLoader's loop

step and train take train.py's own words; their last line says what bounds the speed and which setting to change.
Rates of decoders are by CPU time, so that other work on the machine does not count; pipelines take turns of a few
images each, and what is shown is the median of the rounds with the least and the greatest. cv2 and FFCV's algorithm
come with the extra `bench` (pip install -e .[bench]; FFCV's also needs libturbojpeg).
"""

import argparse
import dataclasses
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmark_peers import Work, image_paths, peers, plan, split_of_time, torchvision_evaluation, torchvision_loader
from torch import nn

from imgcls import distributed
from imgcls.config import Config, EvaluateConfig, compose
from imgcls.data.augment import RandomResizedCrop
from imgcls.data.decoding import BadImageError, decode_whole, describe_decoder, native, read_size
from imgcls.data.loading import Batch, Loader
from imgcls.data.sets import ArraySplit, FileSplit, FolderSplit, PackSplit, list_folder, open_pack
from imgcls.environment import default_num_threads
from imgcls.inference import Center, Member, predict_split
from imgcls.models import build_model
from imgcls.training import Trainer, build_trainer, open_run_directory

CHUNK = 50  # images that a pipeline decodes in one turn


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    loader = commands.add_parser("loader", help="decoders and loaders against the usual ones")
    loader.add_argument("--data", required=True, help="a folder of JPEG files, at any depth")
    loader.add_argument("--pack", help="a pack of the same images, made by scripts/pack.py")
    loader.add_argument("--images", type=int, default=1000, help="files to take, from all over the folder")
    loader.add_argument("--image-size", type=int, default=224)
    loader.add_argument("--threads", type=int, default=default_num_threads(), help="of the loaders; default: all cores")
    loader.add_argument("--rounds", type=int, default=5)
    for name, text in (("step", "the step alone, on noise"), ("train", "the data, the step, and both together")):
        command = commands.add_parser(name, help=text)
        command.add_argument("overrides", nargs="*", help="as train.py takes them: model=resnet50 precision=bf16 ...")
        command.add_argument("--seconds", type=float, default=5, help="for each part of each round")
        command.add_argument("--rounds", type=int, default=3)
    evaluate = commands.add_parser("evaluate", help="the centre crop's test, against torchvision's loop")
    evaluate.add_argument("--data", required=True, help="a folder of class folders, as ImageNet's val")
    evaluate.add_argument("--arch", default="resnet18", help="a ResNet or VGG, of random weights (default: resnet18)")
    evaluate.add_argument("--threads", type=int, default=default_num_threads(), help="of both; default: all cores")
    evaluate.add_argument("--workers", type=int, help="of torchvision's DataLoader (default: as many)")
    evaluate.add_argument("--rounds", type=int, default=3)
    small = commands.add_parser("small", help="LeNet-5 on MNIST against a DataLoader's loop")
    small.add_argument("--root", help="MNIST as torchvision lays it out")
    small.add_argument("--workers", type=int, default=2, help="of the DataLoader; as many threads here")
    small.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", default_num_threads())))
    try:
        COMMANDS[asked.command](asked)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


def measure_loader(asked: argparse.Namespace) -> None:
    """Decoders on bytes in memory, one thread each; then whole loaders over the files."""
    torch.set_num_threads(1)
    if asked.images < 1:
        raise ValueError(f"--images {asked.images}; use 1 or more")
    paths = image_paths(asked.data)
    paths = paths[:: max(1, len(paths) // asked.images)][: asked.images]
    data, paths = _decodable(paths)
    print(f"{machine()}; {len(data)} files of {np.mean([len(one) for one in data]) / 1e3:.0f} KB")
    _compare_decoders(data, asked)
    if native.available():
        _split_time(data, paths, asked)
    _compare_loaders(paths, asked)


def _compare_decoders(data: list[bytes], asked: argparse.Namespace) -> None:
    found, missing = peers(asked.image_size)
    jobs = {peer.name: (peer, work_of(data, asked.image_size)) for peer in found}
    if asked.pack:
        split = _of_pack(asked.pack)
        some = np.unique(np.linspace(0, len(split) - 1, len(data)).astype(np.int64))
        packed = [split.read(int(index)) for index in some]
        ours = found[-1]
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
    names = [os.fsencode(os.path.abspath(path))[1:] for path in paths]
    offsets = np.cumsum([0, *map(len, names)], dtype=np.int64)
    split = FolderSplit("", np.frombuffer(b"".join(names), np.uint8), offsets, np.zeros(len(names)))
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


def measure_step(asked: argparse.Namespace) -> None:
    """The step alone: forward, backward, optimizer, and what is done to a batch on the device, on noise."""
    config = compose(asked.overrides)
    classes = config.data.num_classes or 1000
    config.data.source = {
        "_target_": "imgcls.data.sets.in_memory.noise",
        **{"image_size": config.image_size, "num_images": config.batch_size, "num_classes": classes},
    }
    config.data.root, config.data.num_classes = None, None
    with trainer_of(config) as trainer:
        step = _step_of(trainer)
        rates = [rate(step, asked.seconds, trainer) for _ in range(asked.rounds)]
    print(f"{machine()}\n{describe(config)}")
    print(f"the step alone: {shown(rates)} images/s")
    print(advice_on_compute(settings_of(config, trainer)))


def measure_train(asked: argparse.Namespace) -> None:
    """The data alone, the step alone, and training; and what bounds it."""
    config = compose(asked.overrides)
    with trainer_of(config) as trainer:
        step = _step_of(trainer)
        batches = _endless(trainer.train_loader)
        data_rates, step_rates, whole_rates, waits = [], [], [], []
        for _ in range(asked.rounds):
            data_rates.append(rate(lambda: len(next(batches).labels), asked.seconds, trainer))
            step_rates.append(rate(step, asked.seconds, trainer))
            waited, started = [0.0], time.perf_counter()
            whole_rates.append(
                rate(lambda waited=waited: _whole_step(trainer, batches, waited), asked.seconds, trainer)
            )
            waits.append(waited[0] / (time.perf_counter() - started))
        batches.close()
        settings = settings_of(config, trainer)
    print(f"{machine()}\n{describe(config)}\ndecoder: {describe_decoder()}")
    print(f"the data alone: {shown(data_rates)} images/s")
    print(f"the step alone: {shown(step_rates)} images/s")
    print(f"training:       {shown(whole_rates)} images/s, waiting for data {statistics.median(waits):.0%} of the time")
    data, step_alone, whole = (statistics.median(rates) for rates in (data_rates, step_rates, whole_rates))
    print(verdict(data, step_alone, whole, settings))


class Settings(NamedTuple):
    """What a verdict looks at."""

    device: str
    native: bool
    data: str  # files, pack or array
    num_threads: int
    cores: int
    torch_threads: int
    precision: str
    channels_last: bool
    compiled: bool
    parts: int  # that a batch is computed in


def verdict(data: float, step: float, whole: float, settings: Settings) -> str:
    """One line: bound by data or by compute, by how much, and what to change; rates in images/s."""
    if settings.device == "cpu" and whole < 0.9 * min(data, step):
        both = 1 / (1 / data + 1 / step)
        share = both / step
        slower = "the step" if data > step else "the data"
        advice = advice_on_compute(settings) if data > step else advice_on_data(settings)
        return (
            f"data and step share this CPU: {both:.0f} images/s is what one core after the other gives; {slower} "
            f"takes most, data {1 - share:.0%} of it. {advice}"
        )
    if data < step:
        return f"bound by data: the step could do {step / data:.2f} times what is decoded. {advice_on_data(settings)}"
    return f"bound by compute: the data would do for {data / step:.2f} times the step. {advice_on_compute(settings)}"


def advice_on_data(settings: Settings) -> str:
    """Which setting of the data to change first."""
    if settings.data == "array":
        return "Change: batch_size (larger), for there is little work in each image"
    if not settings.native:
        return "Change: build the native decoder, python -m imgcls.data.native build"
    if settings.num_threads < settings.cores:
        return f"Change: data.num_threads={settings.cores}, all the cores of this process"
    if settings.data == "files":
        return "Change: data=pack (scripts/pack.py, lossy), which decodes more than twice as fast; or use more cores"
    return "Change: more cores, or a smaller image_size"


def advice_on_compute(settings: Settings) -> str:
    """Which setting of the computation to change first."""
    if settings.parts > 1:
        return f"Change: microbatch=null, if memory allows; a batch is computed in {settings.parts} parts"
    if not settings.channels_last:
        return "Change: channels_last=true"
    if settings.device == "cpu":
        if settings.torch_threads < settings.cores:
            return f"Change: OMP_NUM_THREADS={settings.cores}"
        return "Change: a GPU, a smaller image_size or a smaller model"
    if settings.precision == "fp32":
        return "Change: precision=bf16"
    if not settings.compiled:
        return "Change: compile=true"
    return "Change: a larger batch_size if memory allows, or more GPUs"


def settings_of(config: Config, trainer: Trainer) -> Settings:
    loader = trainer.train_loader
    kind = {ArraySplit: "array", PackSplit: "pack"}.get(type(loader.split), "files")
    return Settings(
        device=trainer.settings.device.type,
        native=native.available(),
        data=kind,
        num_threads=loader.num_threads,
        cores=default_num_threads(),
        torch_threads=torch.get_num_threads(),
        precision="fp32" if trainer.settings.autocast is None else str(trainer.settings.autocast),
        channels_last=config.channels_last,
        compiled=config.compile,
        parts=-(-loader.local_size // trainer.state.microbatch),
    )


def measure_evaluate(asked: argparse.Namespace) -> None:
    """What evaluate.py does for protocol=center, all of it, and torchvision's reference loop, both in float32."""
    torch.set_num_threads(asked.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = compose([f"model={asked.arch}", "data=folder", f"data.num_threads={asked.threads}"])
    listing = list_folder(Path(asked.data))
    split = FolderSplit(asked.data, listing.names, listing.offsets, listing.labels)
    state = build_model(config, num_classes=1000).state_dict()
    member = Member(asked.arch, config, state, None, Path())
    how = EvaluateConfig()

    def ours() -> int:
        found = predict_split(member, split, Center(), how, device)
        assert found is not None
        return len(found.indices)

    wall: dict[str, list[float]] = {"torchvision's reference": [], "imgcls": []}
    # In a process of its own: what this one does to the memory allocator would speed it up too.
    workers = asked.threads if asked.workers is None else asked.workers
    with torchvision_evaluation(asked.data, asked.arch, threads=asked.threads, workers=workers) as reference:
        for _ in range(asked.rounds):
            for name, run in (("torchvision's reference", reference), ("imgcls", ours)):
                started = time.perf_counter()
                count = run()
                wall[name].append((time.perf_counter() - started) / count)
    print(
        f"{machine()}; {asked.arch}, centre crop of {config.image_size}, {count} images, {asked.threads} threads, "
        f"workers={workers} of the DataLoader, fp32"
    )
    print_table(wall)


def measure_small(asked: argparse.Namespace) -> None:
    """LeNet-5 on MNIST: this program's loader and loop, and a plain loop over a torchvision DataLoader."""
    root = [f"data.root={asked.root}"] if asked.root else []
    config = compose(["model=lenet5", "data=mnist", f"data.num_threads={asked.workers}", "log_every_steps=1000", *root])
    with trainer_of(config) as trainer:
        loader, batch_size = trainer.train_loader, config.batch_size
        usual = usual_small_loader(trainer.train_loader.split, batch_size, asked.workers)
        usual_loop = usual_small_loop(build_model(config, num_classes=10))
        runs: dict[str, Callable[[int], int]] = {
            "DataLoader, data alone": lambda _: sum(len(labels) for _, labels in usual),
            "imgcls, data alone": lambda epoch: sum(len(batch.labels) for batch in loader.epoch(epoch)),
            "DataLoader, training": lambda _: sum(usual_loop(images, labels) for images, labels in usual),
            "imgcls, training": lambda epoch: sum(_train_on(trainer, batch) for batch in loader.epoch(epoch)),
        }
        step = _step_of(trainer)
        runs["imgcls, the step alone"] = lambda _: sum(step() for _ in range(loader.num_batches))
        wall: dict[str, list[float]] = {name: [] for name in runs}
        cpu: dict[str, list[float]] = {name: [] for name in runs}
        for epoch in range(asked.rounds):
            for name, run in runs.items():
                started, used = time.perf_counter(), cpu_seconds()
                count = run(epoch)
                wall[name].append((time.perf_counter() - started) / count)
                cpu[name].append((cpu_seconds() - used) / count)
    print(f"{machine()}; LeNet-5 on MNIST, batch {batch_size}, {asked.workers} workers or threads")
    for what, seconds in (("wall", wall), ("CPU", cpu)):
        print(f"{what} time:")
        for part in ("data alone", "training"):
            print_table({name: seconds[name] for name in runs if name.endswith(part)})
        print_table({name: seconds[name] for name in runs if name.endswith("step alone")})


def usual_small_loader(split: Any, batch_size: int, workers: int) -> Any:
    """The DataLoader of torchvision's MNIST examples, over the same images in memory."""
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose(
        [transforms.Pad(2), transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )

    class Digits(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(split)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.fromarray(split.images[index, :, :, 0], mode="L")), int(split.labels[index])

    return torch.utils.data.DataLoader(Digits(), batch_size, shuffle=True, num_workers=workers, drop_last=True)


def usual_small_loop(model: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], int]:
    """The plain step of PyTorch's own examples, with the same network."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()

    def step(images: torch.Tensor, labels: torch.Tensor) -> int:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return len(labels)

    return step


@contextmanager
def trainer_of(config: Config) -> Iterator[Trainer]:
    """The trainer that train.py would build, in a directory that is gone afterwards."""
    config.tensorboard = False
    with (
        tempfile.TemporaryDirectory() as folder,
        distributed.process_group(config.device) as device,
        open_run_directory(config, Path(folder) / "run") as run_dir,
    ):
        trainer = build_trainer(config, run_dir, device)
        trainer.begin()
        trainer.train_model.train()
        yield trainer
        trainer.train_loader.close()
        trainer.val_loader.close()


def _step_of(trainer: Trainer) -> Callable[[], int]:
    with closing(trainer.train_loader.epoch(0)) as batches:
        batch = Batch(*(tensor.clone() for tensor in next(batches)))
    trainer.state.step = 1  # the first step alone shows its images to TensorBoard
    return lambda: _train_on(trainer, batch)


def _train_on(trainer: Trainer, batch: Batch) -> int:
    loss, logits = trainer.train_step(batch)
    trainer.state.step += 1
    trainer.meter.update(loss, logits, batch.labels)
    return len(batch.labels)


def _whole_step(trainer: Trainer, batches: Iterator[Batch], waited: list[float]) -> int:
    asked = time.perf_counter()
    batch = next(batches)
    waited[0] += time.perf_counter() - asked
    return _train_on(trainer, batch)


def _endless(loader: Loader) -> Any:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def rate(step: Callable[[], int], seconds: float, trainer: Trainer) -> float:
    """Images/s of `step`, called for so many seconds after two times that do not count."""

    def settle() -> None:
        if trainer.settings.device.type == "cuda":
            torch.cuda.synchronize(trainer.settings.device)

    for _ in range(2):
        step()
    settle()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += step()
    settle()
    return count / (time.perf_counter() - started)


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


def _decodable(paths: list[str]) -> tuple[list[bytes], list[str]]:
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
    for name, found in seconds.items():
        ratios = [one / other for one, other in zip(reference, found, strict=True)]
        print(
            f"  {name:<38} {1 / statistics.median(found):>9,.0f} images/s   "
            f"{statistics.median(ratios):5.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def shown(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def cpu_seconds() -> float:
    """Of this process, its threads, and its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def resident_bytes() -> int:
    """Memory that this process holds now; the most it ever held, where the system does not tell."""
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
    told = dataclasses.asdict(config)
    keys = ("batch_size", "image_size", "precision", "microbatch", "channels_last", "compile")
    return f"{name}: " + ", ".join(f"{key}={told[key]}" for key in keys)


COMMANDS = {
    "loader": measure_loader,
    "step": measure_step,
    "train": measure_train,
    "evaluate": measure_evaluate,
    "small": measure_small,
}

if __name__ == "__main__":
    main()
