"""`benchmark.py evaluate` and `small`: the whole program against torchvision's and PyTorch's own loops."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmark_peers import torchvision_evaluation
from benchmark_report import cpu_seconds, machine, print_table
from benchmark_step import step_of, train_on, trainer_of
from torch import nn

from imgcls.config import EvaluateConfig, compose
from imgcls.data.sets import FolderSplit, list_folder
from imgcls.inference import Center, Member, predict_split
from imgcls.models import build_model


def measure_evaluate(asked: argparse.Namespace) -> None:
    """Compare all that evaluate.py does for protocol=center with torchvision's reference loop, both in float32."""
    torch.set_num_threads(asked.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = compose([f"model={asked.arch}", "data=folder", f"data.num_threads={asked.threads}"])
    listing = list_folder(Path(asked.data))
    split = FolderSplit.of_listing(asked.data, listing)
    state = build_model(config, num_classes=1000).state_dict()
    member = Member(asked.arch, config, state, None, Path())
    how = EvaluateConfig()

    def ours() -> int:
        predictions = predict_split(member, split, Center(), how, device)
        assert predictions is not None
        return len(predictions.indices)

    wall: dict[str, list[float]] = {"torchvision's reference": [], "imgcls": []}
    # In another process: this one's setting of the memory allocator would speed it up too.
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
            "imgcls, training": lambda epoch: sum(train_on(trainer, batch) for batch in loader.epoch(epoch)),
        }
        step = step_of(trainer)
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
    """Return the DataLoader of torchvision's MNIST examples, over the same images in memory."""
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
    """Return the plain loop of PyTorch's examples, with the same network."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()

    def step(images: torch.Tensor, labels: torch.Tensor) -> int:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return len(labels)

    return step
