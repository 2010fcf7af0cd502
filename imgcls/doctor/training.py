"""Build what train.py would build, in a temporary directory; measure its steps, and add up the run."""

import dataclasses
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from imgcls.config import Config
from imgcls.data.loading import Batch, Loader, build_loaders
from imgcls.data.sets import ImageSet
from imgcls.device import most_memory_used, total_memory, wait_for
from imgcls.doctor.findings import Finding, bytes_text, fail, note
from imgcls.errors import RunError, exit_code_of, text_of
from imgcls.runs import duration_text
from imgcls.training import Trainer, build_trainer, explain_out_of_memory, memory_advice, open_run_directory, snapshot

SECONDS_TO_LOAD = 4.0
SECONDS_TO_STEP = 6.0
CPU_BATCH = 16  # images of a step that is measured on a CPU
VALIDATION_COST = 1 / 3  # of a training step an image: forward, without backward and update


class Speed(NamedTuple):
    """Training images a second: decoded, and computed."""

    loader: float
    step: float
    shared: bool  # both use the same cores, so that their times add up

    def images_per_second(self, step: float | None = None) -> float:
        """Return how many images a second both together do, with another `step` rate if given."""
        step = step or self.step
        return 1 / (1 / self.loader + 1 / step) if self.shared else min(self.loader, step)


def look_at_training(config: Config, images: ImageSet, device: torch.device, path: Path) -> Iterator[Finding]:
    """Yield what there is to say of the network on this device: size, memory, speed, and how long the run takes."""
    if config.compile:
        yield note("compile", "compile=true compiles for a minute or more at the start; measured here without it")
    try:
        with _trainer(config, images, device) as trainer:
            yield _network(trainer)
            with explain_out_of_memory(lambda: memory_advice(trainer)):
                trainer.begin()
                step, memory = _measure_step(trainer)
            if memory is not None:
                yield memory
            loader = _measure_loader(config, images, device)
            speed = Speed(loader, step, shared=device.type == "cpu" and trainer.train_loader.resident is None)
            yield _compare(speed)
            yield _duration(trainer, speed)
            yield _disk(trainer, path)
    except (ValueError, OSError, RunError) as error:
        if exit_code_of(error) is None:
            raise
        yield fail("training", text_of(error))


@contextmanager
def _trainer(config: Config, images: ImageSet, device: torch.device) -> Iterator[Trainer]:
    changed = {"logger": {}, "compile": False, "overwrite": False, "continue_run": False, "name": None}
    config = dataclasses.replace(config, **changed)
    with tempfile.TemporaryDirectory() as folder, open_run_directory(config, Path(folder) / "run") as run_dir:
        with _quiet():
            trainer = build_trainer(config, run_dir, device, images=images, look_at_files=False)
        trainer.train_mode()
        try:
            yield trainer
        finally:
            trainer.train_loader.close()
            trainer.val_loader.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this context the first lines of a run are not logged."""
    logger = logging.getLogger("imgcls")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _network(trainer: Trainer) -> Finding:
    network, config = trainer.model, trainer.config
    arch = config.model.get("arch") or getattr(network, "arch", type(network).__name__)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    shape = trainer.train_loader.shape
    pixels = torch.zeros(1, *shape, dtype=torch.uint8, device=trainer.device)
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(trainer.prepare(pixels))
    trainer.train_mode()
    macs = counter.get_total_flops() / 2e9
    return Finding(
        "model",
        f"{arch}, {num_parameters:,} parameters, {macs:.3g} GMACs an image of {shape[0]} px",
    )


def _measure_step(trainer: Trainer) -> tuple[float, Finding | None]:
    """Return images/s of training steps on this device, and what they say of its memory."""
    on_cpu = trainer.device.type == "cpu"
    with closing(trainer.train_loader.epoch(0)) as batches:
        batch = Batch(*(tensor.clone() for tensor in next(batches)))
    if on_cpu:
        batch = Batch(*(tensor[:CPU_BATCH] for tensor in batch))
    trainer.state.step = 1  # the first step alone shows its images
    started, first, num = time.monotonic(), 0.0, 0
    while num < 2 or (num < 20 and time.monotonic() - started < SECONDS_TO_STEP):
        if num == 2 or (num == 1 and on_cpu):
            wait_for(trainer.device)
            first, begun = time.monotonic(), num
        trainer.train_step(batch)
        trainer.state.step += 1
        num += 1
    wait_for(trainer.device)
    rate = (num - begun) * len(batch.labels) / (time.monotonic() - first)
    num, microbatch, host = trainer.train_loader.local_size, trainer.state.microbatch, trainer.host
    step = f"a step of {num} images{f', {microbatch} at a time,' if microbatch < num else ''} takes"
    if host is not None:
        least, free = bytes_text(host.least(microbatch)), bytes_text(host.free)
        return rate, Finding("memory", f"{step} {least} of memory or more, {free} are free")
    total, used = total_memory(trainer.device), most_memory_used(trainer.device, reserved=True)
    if total is None or used is None:
        return rate, None
    return rate, Finding("memory", f"{step} {bytes_text(used)} of the GPU's {bytes_text(total)}")


def _measure_loader(config: Config, images: ImageSet, device: torch.device) -> float:
    """Return images/s of the training loader, in batches that are small enough to count."""
    size = min(config.batch_size, 32, len(images.train))
    loader, other = build_loaders(dataclasses.replace(config, batch_size=size, sampler="uniform"), images, device)
    other.close()
    started = time.monotonic()
    counted_from, num = started, 0
    ahead = loader.prefetch + 1  # decoded before the first batch is there
    for position, batch in enumerate(_endless(loader)):
        now = time.monotonic()
        if position == ahead:
            counted_from, num = now, 0
        num += len(batch.labels)
        if position > 2 * ahead and now - started > SECONDS_TO_LOAD:
            break
        if now - started > 3 * SECONDS_TO_LOAD:
            break
    loader.close()
    return num / max(time.monotonic() - counted_from, 1e-6)


def _endless(loader: Loader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _compare(speed: Speed) -> Finding:
    text = f"images/s: the loader {speed.loader:,.0f}, a step {speed.step:,.0f}"
    if speed.shared:
        return Finding("speed", f"{text}; on the same cores, together {speed.images_per_second():,.0f}")
    if speed.loader >= 1.1 * speed.step:
        return Finding("speed", f"{text}: the device is busy")
    return note(
        "speed",
        f"{text}: the device waits for images; more cores, data=pack, or where the set fits in memory data.cache_gb",
    )


def _duration(trainer: Trainer, speed: Speed) -> Finding:
    config, loader = trainer.config, trainer.train_loader
    train = loader.num_images / speed.images_per_second()
    validations = max(1.0, 1 / config.validate_every) if config.validate_every < 1 else 1 / config.validate_every
    val = trainer.val_loader.num_images / speed.images_per_second(speed.step / VALIDATION_COST)
    epochs = float(config.epochs)
    if config.max_steps is not None:
        epochs = min(epochs, config.max_steps / loader.num_batches)
    whole = epochs * (train + val * validations)
    steps = min(config.epochs * loader.num_batches, config.max_steps or config.epochs * loader.num_batches)
    text = (
        f"an epoch {duration_text(train)} and its validation {duration_text(val)}; the run, {epochs:.3g} epochs of "
        f"{loader.num_batches:,} steps ({steps:,} in all), batch {config.batch_size}: about {duration_text(whole)}"
    )
    if config.max_hours is not None and whole > 3600 * config.max_hours:
        return note("time", f"{text}; max_hours={config.max_hours:g} stops it before, and the same command goes on")
    return Finding("time", text)


def _disk(trainer: Trainer, path: Path) -> Finding:
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
    if not os.access(place, os.W_OK):
        return fail("disk", f"{place} cannot be written to; start the run elsewhere, or give it hydra.run.dir=...")
    checkpoint = _num_bytes(snapshot(trainer))
    kept = max(trainer.config.checkpoint.keep, int(trainer.config.on_divergence == "rollback"))
    needed = checkpoint * (3 + kept) + _num_bytes(trainer.model.state_dict())  # the one that is written, last, previous
    free = shutil.disk_usage(place).free
    text = f"{bytes_text(needed)} of checkpoints, {bytes_text(free)} free in {place}"
    return Finding("disk", text) if free > needed else fail("disk", f"{text}: make room, or start the run elsewhere")


def _num_bytes(tree: object) -> int:
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(map(_num_bytes, tree.values()))
    return sum(map(_num_bytes, tree)) if isinstance(tree, list | tuple) else 0
