"""What 1, 2, 3, ... ranks make of the same run, and sharding beside DDP: test_ranks.py starts it by torchrun.

    torchrun --nproc-per-node=3 equal_ranks.py IMAGES FOLDER

Three processes train the run three times: the first by itself, the first two, and all of them, each in float32 and with
weights in float64. The first prints one JSON object.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from helpers import LoaderWrapper

from imgcls import distributed
from imgcls.checkpoints import load_checkpoint
from imgcls.config import compose
from imgcls.data.loading import Batch
from imgcls.training import Trainer, build_trainer, open_run_directory

IMAGES, FOLDER = sys.argv[1:]
MOST, RANK = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
STEPS = 20
RUN = ["data=folder", f"data.root={IMAGES}", "image_size=32", "batch_size=12", "data.num_threads=1", "logger=none"]
RUN += ["device=cpu", "epochs=4"]
# Random crops and flips, a part that decays and one that does not, lr that changes, the average of the weights.
NO_NORM = ["model=lenet5", "model.activation=relu", "augment=resnet", "decay_norms_and_biases=false", "ema_decay=0.9"]
NO_NORM += ["schedule=cosine", "optimizer.lr=0.02", f"max_steps={STEPS}"]
BATCH_NORM = ["model=resnet18", "max_steps=5", "silence=[batch_norm]"]
# What FSDP2 has by itself: unfused optimizers, and weights that are not in channels_last.
AS_SHARDED = ["+optimizer.fused=false", "channels_last=false"]


def fit(name: str, words: list[str], dtype: torch.dtype = torch.float32) -> list[list[int]]:
    """Train a run with weights of `dtype`; return the images of each step, over all ranks, on rank 0."""
    order: list[list[int]] = []

    def watched(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            order.append(batch.indices.tolist())
            yield batch

    config = compose([*RUN, *words])
    torch.set_default_dtype(dtype)
    with open_run_directory(config, Path(FOLDER) / name) as run_dir:
        trainer: Trainer = build_trainer(config, run_dir, torch.device("cpu"))
        for network in (trainer.model, trainer.average and trainer.average.model):
            if network is not None:
                network.register_forward_pre_hook(lambda _, images: (images[0].to(dtype),))
        wrapper: Any = LoaderWrapper(trainer.train_loader, watched)
        trainer.train_loader = wrapper
        trainer.fit()
    of_ranks = distributed.gather(order) or []
    return [list(chain.from_iterable(parts)) for parts in zip(*of_ranks, strict=True)]


def saved(name: str) -> dict[str, torch.Tensor]:
    """Return the weights of a run and their average, in float64."""
    content = load_checkpoint(Path(FOLDER) / name / "last.pt")
    parts = {"model": content["model"], "average": content["average"] or {}}
    return {f"{part}.{key}": value.double() for part, values in parts.items() for key, value in values.items()}


def distance(name: str, other: str) -> float:
    one, two = saved(name), saved(other)
    assert one.keys() == two.keys()
    return max(float((one[key] - two[key]).abs().max()) for key in one)


@contextmanager
def ranks(count: int, *, meeting: int) -> Iterator[None]:
    """Make the first `count` processes the ranks of a run; each `meeting` has a number, as torchrun's restarts have."""
    os.environ["WORLD_SIZE"] = str(count)
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(meeting)
    with distributed.process_group("cpu"):
        yield


def main() -> None:
    torch.set_num_threads(1)
    orders: dict[int, list[list[int]]] = {}
    if RANK == 0:
        orders[1] = fit("1", NO_NORM)
        fit("1 in float64", NO_NORM, torch.float64)
    for count in range(2, MOST + 1):
        if count > RANK:
            with ranks(count, meeting=count):
                orders[count] = fit(str(count), NO_NORM)
                fit(f"{count} in float64", NO_NORM, torch.float64)
    if RANK < 2:
        with ranks(2, meeting=1):
            fit("ddp", [*BATCH_NORM, *AS_SHARDED])
            fit("sharded", [*BATCH_NORM, *AS_SHARDED, "sharding=full"])
    if RANK == 0:
        figures = {
            "steps": len(orders[1]),
            "same_order": [count for count, order in orders.items() if order == orders[1]],
            "float32": {count: distance("1", str(count)) for count in range(2, MOST + 1)},
            "float64": {count: distance("1 in float64", f"{count} in float64") for count in range(2, MOST + 1)},
            "sharded": distance("ddp", "sharded"),
        }
        print("figures", json.dumps(figures))


main()
