"""What `gpu_report.py` measures: eight parts of several items, each a function that returns its figures.

On a CPU each does the same at toy size, so that nothing in it is new on the day when there is a GPU.
"""

import json
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from imgcls.config import Config
    from imgcls.training import Trainer

ROOT = Path(__file__).resolve().parents[2]
Figures = dict[str, Any]


class NotHereError(Exception):
    """An item cannot be measured here: its text says what is missing."""


@dataclass(frozen=True)
class Place:
    """Where and at what size the report is made.

    Args:
        folder: of the report; generated images are kept below it.
        toy: the small sizes of a test on a CPU.
        images: a folder with train/ and val/ of JPEGs; None generates some.
        imagenette, tiny_imagenet: those data sets, for training.
        networks: of conf/model, for the step rates; empty takes all.
    """

    folder: Path
    toy: bool
    images: Path | None = None
    imagenette: Path | None = None
    tiny_imagenet: Path | None = None
    networks: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long one rate is measured."""
        return 0.05 if self.toy else 2.0

    @property
    def rounds(self) -> int:
        return 1 if self.toy else 3


@dataclass(frozen=True)
class Item:
    """One measurement: `needs` so many seconds at most on a GPU, after which it is stopped."""

    name: str
    measure: Callable[[Place], Figures]
    needs: float = 60


@dataclass(frozen=True)
class Part:
    """Items under one heading of the report."""

    name: str
    title: str
    items: list[Item] = field(default_factory=list)


def parts(place: Place) -> list[Part]:
    """Return the eight parts in the order in which they are measured."""
    networks = place.networks or (TOY_NETWORKS if place.toy else tuple(BATCH_SIZES))
    return [
        Part("tests", "pytest -m gpu", [Item("gpu", run_gpu_tests, needs=240)]),
        Part("rates", "Step rates", [Item("peak", matmul_peak), *map(_rates_item, networks)]),
        Part("switches", "What each switch gains", [Item(name, partial(switch, name), needs=240) for name in SWITCHES]),
        Part("jpegs", "Training from JPEGs", [Item(name, partial(fed, name), needs=120) for name in FORMS]),
        Part("deterministic", "deterministic=true", [Item("same bits", same_bits, needs=150), Item("price", price)]),
        Part("memory", "Out of memory", [Item("microbatch=auto", out_of_memory, needs=120)]),
        Part("saving", "Saving beside steps", [Item("saving", saving, needs=90)]),
        Part("training", "Training for real", [Item(name, partial(train, name), needs=460) for name in RUNS]),
    ]


# Images of a step at 224 px (LeNet-5: 32), of every network, the most important first.
BATCH_SIZES = {
    **{"resnet50": 256, "resnet18": 1024, "alexnet": 1024, "vgg16": 256, "googlenet": 512, "lenet5": 4096},
    **{"resnet34": 512, "resnet101": 256, "resnet152": 128, "vgg16_bn": 256, "vgg11": 512, "vgg13": 256, "vgg19": 256},
    **{"vgg11_bn": 512, "vgg13_bn": 256, "vgg19_bn": 256, "vgg11_lrn": 512, "vgg16_1x1": 256},
}
# Compiling takes a minute or so each: one of each family.
COMPILED = ("resnet50", "resnet18", "alexnet", "vgg16", "googlenet", "lenet5")
TOY_NETWORKS = ("lenet5", "resnet18")
FAST = ("channels_last=true", "precision=auto", "logger=none")
# Dense bf16 FLOP/s of the vendor's data sheets.
DATA_SHEET = {"H100": 989.4e12, "H200": 989.4e12, "A100": 311.9e12}


def _rates_item(name: str) -> Item:
    return Item(name, partial(step_rates, name), needs=240 if name in COMPILED else 90)


# 1


def run_gpu_tests(place: Place) -> Figures:
    """Run the tests that need a CUDA device; without one they are skipped."""
    import pytest  # its absence is said before a process is started

    results = place.folder / "pytest.xml"
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    words = ["-o", "addopts=", "-p", "no:cacheprovider", "--import-mode=importlib", "-m", "gpu", "-q", "-rf"]
    command = [sys.executable, "-m", pytest.__name__, *words, f"--junitxml={results}", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if not results.exists():
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    suite = ElementTree.parse(results).getroot().find("testsuite")
    assert suite is not None
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    return counts | {"failed": failures(suite)}


def failures(suite: ElementTree.Element) -> list[str]:
    """Return the name of each test of a JUnit report that failed, and why."""
    return [
        f"{case.get('name')}: {reason.get('message', '')[:300]}"
        for case in suite.iter("testcase")
        for reason in (*case.iter("failure"), *case.iter("error"))
    ]


# 2


def matmul_peak(place: Place) -> Figures:
    """Measure the FLOP/s of one large product, in bf16 on CUDA: what a network could reach at most."""
    import torch

    device = _device()
    cuda = device.type == "cuda"
    size = 8192 if cuda else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16 if cuda else torch.float32) for _ in range(2))

    def product() -> int:
        torch.mm(a, b)
        return 1

    from benchmark_step import rate

    figures = {"matmul_flops": 2 * size**3 * max(rate(product, place.seconds, device) for _ in range(place.rounds))}
    name = torch.cuda.get_device_name(device) if cuda else "cpu"
    known = next((flops for part, flops in DATA_SHEET.items() if part in name), None)
    return figures | {"device": name, "data_sheet_flops": known}


def step_rates(name: str, place: Place) -> Figures:
    """Measure a network's step beside torchvision's reference and timm's fastest, in turns, and its FLOP/s."""
    import torch
    from benchmark_reference import published_network, timm_step, torchvision_step
    from benchmark_step import rate

    compiled = name in COMPILED and not place.toy
    config = _on_noise(place, name, f"compile={str(compiled).lower()}")
    shape = (config.batch_size, 3, *config.input_size)
    figures: Figures = {"batch_size": shape[0], "image_size": shape[2], "compiled": compiled}
    steps: dict[str, Callable[[], int]] = {}
    with _stepping(config) as (trainer, step):
        device = trainer.device
        figures |= _first_steps(step, device)
        steps["imgcls"] = step
        classes = trainer.num_classes
        if (network := published_network(name, num_classes=classes)) is not None:
            steps["torchvision"] = torchvision_step(network, device, shape=shape)
        other, figures["timm"] = _timm_network(name, classes)
        if other is not None:
            steps["timm"] = timm_step(other, device, shape=shape, compiled=compiled)
        rates: dict[str, list[float]] = {key: [] for key in steps}
        for _ in range(place.rounds):
            for key, each in steps.items():
                rates[key].append(rate(each, place.seconds, device))
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    figures["images_per_second"] = {key: statistics.median(values) for key, values in rates.items()}
    figures["rates"] = rates
    figures["flops_per_image"] = training_flops(config, classes)
    figures["flops"] = figures["flops_per_image"] * figures["images_per_second"]["imgcls"]
    return figures


def _timm_network(name: str, num_classes: int) -> "tuple[nn.Module | None, str]":
    """Return the network for timm's step, and whose it is: timm's, or torchvision's where timm has none."""
    from benchmark_reference import published_network

    try:
        import timm
    except ImportError:
        return published_network(name, num_classes=num_classes), "not installed: its step on torchvision's network"
    if not timm.is_model(name):
        return published_network(name, num_classes=num_classes), "has not all networks: its step on torchvision's"
    return timm.create_model(name, num_classes=num_classes), timm.__version__


def training_flops(config: "Config", num_classes: int) -> float:
    """Return the FLOP of a training step for one image: three times those of its forward pass (2 a multiply-add)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from imgcls.models import build_model

    with torch.device("meta"):
        network = build_model(config, num_classes=num_classes, with_weights=False).eval()
        image = torch.empty(1, config.data.channels, *config.input_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return 3.0 * counter.get_total_flops()


# 3

# Each is measured against `all`, which has every switch at its fastest; the words come last on the command line.
SWITCHES: dict[str, tuple[str, ...]] = {
    "all": (),
    "channels_last=false": ("channels_last=false",),
    "precision=fp32": ("precision=fp32",),
    "precision=fp32, TF32": ("precision=fp32",),
    "precision=fp16": ("precision=fp16",),
    "compile=false": ("compile=false",),
    "compile_mode=blocks": ("compile_mode=blocks",),
    "compile_mode=max-autotune": ("compile_mode=max-autotune",),
    "compile_mode=reduce-overhead (CUDA graphs)": ("compile_mode=reduce-overhead",),
    # Either value of fused leaves the optimizer's step uncompiled.
    "optimizer.fused=true": ("+optimizer.fused=true",),
    "optimizer.fused=false": ("+optimizer.fused=false",),
    "no augmentation on the device": (
        *("augment.batch.mix.mixup=0", "augment.batch.mix.cutmix=0", "augment.batch.erasing.probability=0"),
    ),
    "cudnn.benchmark off": (),
    "ema_decay=0": ("ema_decay=0",),
}


def switch(name: str, place: Place) -> Figures:
    """Measure ResNet-50's step by recipe=modern with one switch changed, and the time to its first step."""
    import torch

    cuda = _device().type == "cuda"
    if not cuda and name in ("precision=fp16", "compile_mode=reduce-overhead (CUDA graphs)"):
        raise NotHereError(f"{name} needs a CUDA device")
    compiled = f"compile={str(cuda).lower()}"
    asks_compiled = any(word.startswith("compile_mode") for word in SWITCHES[name])
    words = [compiled, *SWITCHES[name], *(["compile=true"] * asks_compiled)]
    config = _on_noise(place, "resnet50" if cuda else "resnet18", "recipe=modern", *words)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "precision=fp32, TF32"
    with _stepping(config) as (trainer, step):
        torch.backends.cudnn.benchmark = name != "cudnn.benchmark off"
        figures = _first_steps(step, trainer.device)
        return figures | {"images_per_second": statistics.median(_rates(step, trainer.device, place))}


# 4

FORMS = ("noise in memory", "originals", "lossless pack", "lossy pack")


def fed(form: str, place: Place) -> Figures:
    """Measure ResNet-50's training from images in one form: its share of the step's rate on the same machine."""
    from benchmark_step import settings_of, trainer_of, training_rates, verdict

    from imgcls.config import compose
    from imgcls.data.decoding import describe_decoder

    small = ["model=lenet5", "image_size=32"] if place.toy else ["model=resnet50", "image_size=224"]
    batch_size = 8 if place.toy else 256
    words = [*small, f"batch_size={batch_size}", *FAST, f"compile={str(_device().type == 'cuda').lower()}"]
    if form == "noise in memory":
        config = _on_noise(place, words[0].partition("=")[2], *words[1:])
    else:
        images = _images(place)
        root = images if form == "originals" else _pack_of(images, place, lossless=form == "lossless pack")
        config = compose([*words, f"data={'folder' if form == 'originals' else 'pack'}", f"data.root={root}"])
    with trainer_of(config) as trainer:
        rates = training_rates(trainer, seconds=place.seconds, rounds=place.rounds)
        data, step, whole = (statistics.median(each) for each in rates[:3])
        return {
            "data": data,
            "step": step,
            "training": whole,
            "share_of_step": whole / step,
            "waiting": statistics.median(rates.waits),
            "threads": trainer.train_loader.num_threads,
            "decoder": describe_decoder(),
            "verdict": verdict(data, step, whole, settings_of(config, trainer)),
        }


def _pack_of(images: Path, place: Place, *, lossless: bool) -> Path:
    from imgcls.data.decoding import native
    from imgcls.data.sets import make_pack, open_folder
    from imgcls.environment import default_num_threads

    if lossless and not native.available():
        raise NotHereError(native.why_not())
    file = place.folder / f"{'lossless' if lossless else 'lossy'}.pack"
    if not file.exists():
        make_pack(open_folder(str(images)), file, lossless=lossless, num_threads=default_num_threads())
    return file


# 5


def same_bits(place: Place) -> Figures:
    """Train twice, once without a stop and once killed and resumed, and compare all that is saved bit for bit."""
    from verify_resume import prove

    model = ["model=lenet5", "image_size=32"] if place.toy else ["model=resnet18", "image_size=128"]
    words = [*model, "data=folder", f"data.root={_images(place)}", f"batch_size={8 if place.toy else 64}"]
    words += ["recipe=modern", "deterministic=true", "logger=none"]
    # The kinds of saved things are listed in the log of the item.
    code = prove(3, 3, words, stop="SIGKILL", ranks=1, folder=_new_folder(place, "same_bits"))
    return {"same": code == 0}


def price(place: Place) -> Figures:
    """Measure the step with and without deterministic=true."""
    rates = {}
    for value in ("false", "true"):
        words = (f"deterministic={value}", "compile=false", "recipe=modern")
        with _stepping(_on_noise(place, "lenet5" if place.toy else "resnet50", *words)) as (trainer, step):
            rates[value] = statistics.median(_rates(step, trainer.device, place))
    return {"deterministic": rates["true"], "not": rates["false"], "ratio": rates["true"] / rates["false"]}


# 6


def out_of_memory(place: Place) -> Figures:
    """Train a batch that no GPU holds with microbatch=auto, and say what it found and how long that took."""
    import torch

    started = time.perf_counter()
    name, batch_size = ("lenet5", 16) if place.toy else ("resnet50", 8192)
    config = _on_noise(place, name, "microbatch=auto", f"batch_size={batch_size}", "compile=false")
    with _stepping(config) as (trainer, step):
        found = time.perf_counter() - started
        figures = {"batch_size": batch_size, "microbatch": trainer.state.microbatch, "seconds_to_find": found}
        step()
        if trainer.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(trainer.device)
            figures |= {"memory_gib": total / 2**30, "free_afterwards_gib": free / 2**30}
        return figures


# 7


def saving(place: Place) -> Figures:
    """Measure what a checkpoint takes from the steps beside it."""
    import measure_costs

    return measure_costs.saving(rounds=1 if place.toy else 5)


# 8


@dataclass(frozen=True)
class Run:
    """A real training: the data set it needs, its words, and the top-1 that others published for it."""

    data: str
    words: tuple[str, ...]
    published: float | None = None


_IMAGENETTE = ("recipe=modern", "image_size=128", "compile=true", "compile_mode=blocks")
# fastai's leaderboard of Imagenette at 128 px: 87.43, 91.57 and 93.55 % at 5, 20 and 80 epochs, by an xresnet50.
RUNS = {
    "imagenette, resnet50, 5 epochs": Run("imagenette", ("model=resnet50", *_IMAGENETTE, "epochs=5"), 87.43),
    "imagenette, resnet18, 5 epochs": Run("imagenette", ("model=resnet18", *_IMAGENETTE, "epochs=5"), 87.43),
    "imagenette, resnet50, 20 epochs": Run("imagenette", ("model=resnet50", *_IMAGENETTE, "epochs=20"), 91.57),
    "imagenette, resnet18, 20 epochs": Run("imagenette", ("model=resnet18", *_IMAGENETTE, "epochs=20"), 91.57),
    **{
        f"tiny imagenet, {name}, 10 epochs": Run("tiny_imagenet", (f"model={name}", "epochs=10"))
        for name in ("resnet18", "alexnet", "vgg11", "googlenet", "lenet5", "resnet50", "vgg16")
    },
    "imagenette, resnet50, 80 epochs": Run("imagenette", ("model=resnet50", *_IMAGENETTE, "epochs=80"), 93.55),
}


def train(name: str, place: Place) -> Figures:
    """Train a network and return its results; broken off, the next call goes on with it."""
    run = RUNS[name]
    run_dir = place.folder / "runs" / name.replace(", ", "_").replace(" ", "_")
    if place.toy:
        words = ["model=lenet5", "data=shapes", "max_steps=2", "batch_size=8", "image_size=32", "logger=none"]
    else:
        root = getattr(place, run.data)
        if root is None:
            raise NotHereError(f"give --{run.data.replace('_', '-')} FOLDER")
        words = [f"data={run.data}", f"data.root={root}", *run.words, "checkpoint.every_minutes=1"]
    command = [sys.executable, str(ROOT / "train.py"), *words, f"hydra.run.dir={run_dir}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stdout[-1000:] + done.stderr[-2000:])
    results = json.loads((run_dir / "results.json").read_text())
    kept = {key: results[key] for key in ("val_top1", "val_top5", "best_epoch", "epochs", "steps", "seconds")}
    return kept | {"published": run.published, "command": " ".join(words)}


# What the parts share


def _device() -> "torch.device":
    from imgcls.device import choose_device

    return choose_device("auto", 0)


def _on_noise(place: Place, name: str, *words: str) -> "Config":
    from benchmark_step import on_noise

    small = [f"image_size={96 if name == 'googlenet' else 32 if name == 'lenet5' else 64}", "batch_size=4"]
    if name == "lenet5":
        real = ["image_size=32", f"batch_size={BATCH_SIZES[name]}"]
    else:
        real = ["image_size=224", f"batch_size={BATCH_SIZES[name]}"]
    return on_noise([f"model={name}", "data=imagenet", *FAST, *(small if place.toy else real), *words])


@contextmanager
def _stepping(config: "Config") -> "Iterator[tuple[Trainer, Callable[[], int]]]":
    """Yield a trainer of the config and its step, which counts the images."""
    from benchmark_step import step_of, trainer_of

    with trainer_of(config) as trainer:
        yield trainer, step_of(trainer)


def _first_steps(step: Callable[[], int], device: "torch.device") -> Figures:
    """Return the seconds of the first step, which compiles, and the peak memory of the next three."""
    import torch

    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    figures: Figures = {"first_step_s": time.perf_counter() - started}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(3 if device.type == "cuda" else 1):
        step()
    if device.type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures


def _rates(step: Callable[[], int], device: "torch.device", place: Place) -> list[float]:
    from benchmark_step import rate

    return [rate(step, place.seconds, device) for _ in range(place.rounds)]


def _images(place: Place) -> Path:
    """Return the folder of images to train on: the given one, or one of pictures of photos' sizes, drawn once."""
    if place.images is not None:
        return place.images
    folder = place.folder / "images"
    if not (folder / "done").exists():
        _draw_images(folder, toy=place.toy)
        (folder / "done").touch()
    return folder


def _draw_images(folder: Path, *, toy: bool) -> None:
    """Draw pictures with structure at all scales, which a JPEG codes to the size of a photo of 500 x 375 px."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from PIL import Image

    width, height, counts = (64, 48, {"train": 24, "val": 6}) if toy else (500, 375, {"train": 3072, "val": 256})

    def draw(job: tuple[Path, int]) -> None:
        path, seed = job
        draws = np.random.default_rng(seed)
        total = np.zeros((height, width, 3), np.float32)
        for cells in (4, 16, 64, 256):
            small = draws.integers(0, 256, (max(1, cells * height // width), cells, 3), np.uint8)
            total += np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.float32)
        Image.fromarray((total / 4).astype(np.uint8)).save(path, quality=90)

    jobs = []
    for part, count in counts.items():
        for number in range(count):
            path = folder / part / f"class{number % 3}" / f"{number:04}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            jobs.append((path, number + 100_000 * (part == "val")))
    from imgcls.environment import num_cores

    with ThreadPoolExecutor(num_cores()) as pool:
        list(pool.map(draw, jobs))


def _new_folder(place: Place, name: str) -> Path:
    """Return an empty folder: what an attempt that was stopped left there is removed."""
    import shutil

    folder = place.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
