"""`benchmark.py loop`: the trainer's loop against a bare PyTorch loop over the same loader, in CPU time."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from benchmark_report import machine
from benchmark_step import endless, trainer_of
from torch import nn

from imgcls.config import Config, compose
from imgcls.data.loading import Batch
from imgcls.training import Trainer

# Of each network: its words for train.py, the shape and number of the images, and the steps of a turn.
NETWORKS = {
    "lenet5": (["model=lenet5", "data=mnist", "batch_size=32"], {"image_size": 32, "num_images": 6400}, 200),
    "resnet18": (["model=resnet18", "data=imagenet", "batch_size=32"], {"image_size": 224, "num_images": 96}, 3),
}


def measure_loop(asked: argparse.Namespace) -> None:
    """Print the CPU time of a step in both loops, which take turns, and the overhead of the trainer's."""
    print(f"{machine()}; one thread, {asked.rounds} turns each")
    for network in (asked.network,) if asked.network else NETWORKS:
        words, images, steps = NETWORKS[network]
        config = compose([*words, f"image_size={images['image_size']}", "data.num_threads=1", "device=cpu"])
        config.data.source = {"_target_": "imgcls.data.sets.draw_noise", "num_classes": 10, **images}
        config.data.num_classes, config.data.root, config.epochs = None, None, 1_000_000
        config.checkpoint.every_minutes = 1000
        _compare(network, config, steps=asked.steps or steps, rounds=asked.rounds)


def _compare(network: str, config: Config, *, steps: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {"bare PyTorch": [], "imgcls": []}
    with trainer_of(config) as trainer, trainer.signals:
        torch.set_num_threads(1)
        batches = endless(trainer.train_loader)
        runs = {"bare PyTorch": _bare_loop(trainer, batches, steps), "imgcls": _trainer_loop(trainer, steps)}
        for number in range(rounds + 1):
            for name in runs if number % 2 else reversed(runs):
                started = time.process_time()
                runs[name]()
                if number:  # the first turn warms up
                    seconds[name].append((time.process_time() - started) / steps)
        batches.close()
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    overheads = [100 * (ours / bare - 1) for bare, ours in zip(*seconds.values(), strict=True)]
    times = ", ".join(f"{name} {1e3 * median:.3f} ms a step" for name, median in medians.items())
    print(
        f"{network}, batch {config.batch_size}, {config.image_size} px: {times}; overhead "
        f"{statistics.median(overheads):+.1f} % ({min(overheads):+.1f} to {max(overheads):+.1f})"
    )


def _trainer_loop(trainer: Trainer, steps: int) -> Callable[[], None]:
    # The loop of fit, stopped after so many steps by the run's own limit.
    def run() -> None:
        trainer.config.max_steps = trainer.state.step + steps
        while not trainer.out_of_steps():
            trainer.train_epoch()
            if not trainer.out_of_steps():
                trainer.state.epoch, trainer.state.batch = trainer.state.epoch + 1, 0

    return run


def _bare_loop(trainer: Trainer, batches: Iterator[Batch], steps: int) -> Callable[[], None]:
    # What a page of PyTorch does with the same batches, network and optimizer.
    model, optimizer, epoch = trainer.model, trainer.optimizer, trainer.state.epoch

    def run() -> None:
        model.train()
        for _ in range(steps):
            batch = next(batches)
            images, labels = trainer.augment(batch, epoch)
            loss = nn.functional.cross_entropy(_logits(model(images)), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def _logits(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
