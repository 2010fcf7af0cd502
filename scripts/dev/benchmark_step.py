"""`benchmark.py step` and `train`: what bounds the speed of training, and what to change."""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmark_report import describe, machine, shown

from imgcls import distributed
from imgcls.config import Config, compose, fit_to_set
from imgcls.data.decoding import describe_decoder, native
from imgcls.data.loading import Batch, Loader
from imgcls.data.sets import ArraySplit, PackSplit, open_image_set
from imgcls.environment import default_num_threads
from imgcls.training import Trainer, build_trainer, open_run_directory


def measure_step(asked: argparse.Namespace) -> None:
    """Measure the step alone on noise: augmentation on the device, forward, backward, optimizer."""
    config = on_noise(asked.overrides)
    with trainer_of(config) as trainer:
        step = step_of(trainer)
        rates = [rate(step, asked.seconds, trainer.device) for _ in range(asked.rounds)]
    print(f"{machine()}\n{describe(config)}")
    print(f"the step alone: {shown(rates)} images/s")
    print(advice_on_compute(settings_of(config, trainer)))


def on_noise(words: list[str]) -> Config:
    """Compose a run in train.py's words on one batch of noise with the classes of its data set."""
    config = compose(words)
    config.batch_size = config.batch_size or config.recipe.batch_size
    config.data.source = {
        "_target_": "imgcls.data.sets.draw_noise",
        "image_size": config.image_size,
        "num_images": config.batch_size,
        "num_classes": config.data.num_classes or 1000,
    }
    config.data.root, config.data.num_classes = None, None
    return config


class TrainingRates(NamedTuple):
    """Images/s of each round for the data alone, the step alone, and both; the share of the time spent waiting."""

    data: list[float]
    step: list[float]
    whole: list[float]
    waits: list[float]


def training_rates(trainer: Trainer, *, seconds: float, rounds: int) -> TrainingRates:
    """Measure the data alone, the step alone, and training, in turns of so many seconds."""
    step = step_of(trainer)
    batches = endless(trainer.train_loader)
    rates = TrainingRates([], [], [], [])
    for _ in range(rounds):
        rates.data.append(rate(lambda: len(next(batches).labels), seconds, trainer.device))
        rates.step.append(rate(step, seconds, trainer.device))
        waited, started = [0.0], time.perf_counter()
        rates.whole.append(rate(lambda waited=waited: whole_step(trainer, batches, waited), seconds, trainer.device))
        rates.waits.append(waited[0] / (time.perf_counter() - started))
    batches.close()
    return rates


def measure_train(asked: argparse.Namespace) -> None:
    """Measure the data alone, the step alone, and training, and print what bounds it."""
    config = compose(asked.overrides)
    with trainer_of(config) as trainer:
        rates = training_rates(trainer, seconds=asked.seconds, rounds=asked.rounds)
        settings = settings_of(config, trainer)
    print(f"{machine()}\n{describe(config)}\ndecoder: {describe_decoder()}")
    print(f"the data alone: {shown(rates.data)} images/s")
    print(f"the step alone: {shown(rates.step)} images/s")
    print(
        f"training:       {shown(rates.whole)} images/s, "
        f"waiting for data {statistics.median(rates.waits):.0%} of the time"
    )
    data, step_alone, whole = (statistics.median(each) for each in rates[:3])
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
    """Return one line: bound by data or by compute, by how much, and what to change; rates in images/s."""
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
    """Return which setting of the data to change first."""
    if settings.data == "array":
        return "Change: batch_size (larger), for there is little work in each image"
    if not settings.native:
        return "Change: build the native decoder, python -m imgcls.data.decoding.native build"
    if settings.num_threads < settings.cores:
        return f"Change: data.num_threads={settings.cores}, all the cores of this process"
    if settings.data == "files":
        return "Change: data=pack (scripts/pack.py), which decodes faster with the same pixels; or use more cores"
    return "Change: more cores, or a smaller image_size"


def advice_on_compute(settings: Settings) -> str:
    """Return which setting of the computation to change first."""
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
        device=trainer.device.type,
        native=native.available(),
        data=kind,
        num_threads=loader.num_threads,
        cores=default_num_threads(),
        torch_threads=torch.get_num_threads(),
        precision="fp32" if trainer.autocast is None else str(trainer.autocast),
        channels_last=config.channels_last,
        compiled=config.compile,
        parts=-(-loader.local_size // trainer.state.microbatch),
    )


@contextmanager
def trainer_of(config: Config) -> Iterator[Trainer]:
    """Build the trainer that train.py would build, in a directory that is removed afterwards."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", default_num_threads())))
    config.logger = {}
    images = open_image_set(config)
    config = fit_to_set(config, len(images.train))
    with (
        tempfile.TemporaryDirectory() as folder,
        distributed.process_group(config.device, threads=config.threads) as device,
        open_run_directory(config, Path(folder) / "run") as run_dir,
    ):
        trainer = build_trainer(config, run_dir, device, images=images)
        trainer.begin()
        trainer.train_mode()
        yield trainer
        trainer.train_loader.close()
        trainer.val_loader.close()


def step_of(trainer: Trainer) -> Callable[[], int]:
    with closing(trainer.train_loader.epoch(0)) as batches:
        batch = Batch(*(tensor.clone() for tensor in next(batches)))
    trainer.state.step = 1  # the first step alone shows its images to TensorBoard
    return lambda: train_on(trainer, batch)


def train_on(trainer: Trainer, batch: Batch) -> int:
    loss, logits, labels = trainer.train_step(batch)
    trainer.state.step += 1
    trainer.meter.update(loss, logits, labels)
    return len(batch.labels)


def whole_step(trainer: Trainer, batches: Iterator[Batch], waited: list[float]) -> int:
    asked = time.perf_counter()
    batch = next(batches)
    waited[0] += time.perf_counter() - asked
    return train_on(trainer, batch)


def endless(loader: Loader) -> Any:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def rate(step: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Images/s of `step`, called for so many seconds after two times that do not count."""

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(2):
        step()
    settle()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += step()
    settle()
    return count / (time.perf_counter() - started)
