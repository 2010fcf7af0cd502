"""What two ranks compute, each way of exchanging gradients against DDP's default: test_ranks.py starts it by torchrun.

    torchrun --nproc-per-node=2 two_ranks.py IMAGES FOLDER WORDS...

Rank 0 prints one JSON object: the largest distance of a weight from the reference's, by the name of the way.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from imgcls import distributed
from imgcls.checkpoints import load_checkpoint
from imgcls.config import compose
from imgcls.training import Trainer, build_trainer, open_run_directory
from imgcls.training.agreement import Agreement

IMAGES, FOLDER, *WORDS = sys.argv[1:]
WAYS = {
    "ddp": (),
    "sharded": ("sharding=full",),
    "bf16": ("ranks.gradients=bf16",),
    "small buckets": ("ranks.bucket_mb=0.01",),
    "whole": ("microbatch=null",),
    "static graph": ("microbatch=null", "ranks.static_graph=true"),
}
SIZES = ["batch_size=12", "epochs=1", "data.num_threads=1", "logger=none", "device=cpu"]


def fit(name: str, *words: str) -> Trainer:
    config = compose(["data=folder", f"data.root={IMAGES}", *SIZES, *WORDS, *words])
    with open_run_directory(config, Path(FOLDER) / name) as run_dir:
        trainer = build_trainer(config, run_dir, torch.device("cpu"))
        trainer.fit()
    return trainer


def saved(name: str) -> dict[str, Any]:
    return load_checkpoint(Path(FOLDER) / name / "last.pt")


def distance(name: str, other: str, key: str = "model") -> float:
    one, two = saved(name)[key], saved(other)[key]
    assert one.keys() == two.keys()
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def break_off(name: str, *words: str) -> None:
    """Train three steps of a run, and leave the directory as a killed process leaves it."""

    class Stop(Exception):
        pass

    def stop(trainer: Trainer) -> None:
        trainer.save_requested = trainer.state.step == 2
        if trainer.state.step == 4:
            trainer.checkpoints.settle()
            raise Stop

    config = compose(["data=folder", f"data.root={IMAGES}", *SIZES, *WORDS, *words])
    with open_run_directory(config, Path(FOLDER) / name) as run_dir:
        trainer = build_trainer(config, run_dir, torch.device("cpu"))
        trainer.after_step.append(stop)
        try:
            trainer.fit()
        except Stop:
            return
    raise AssertionError("the run was not stopped")


def run_out(where: str) -> str:
    """Train a run whose rank 1 has memory for two images at a time, in the fourth step or in the first validation.

    Returns:
        The error, by kind and text.
    """
    config = compose(["data=folder", f"data.root={IMAGES}", *SIZES, *WORDS, "microbatch=null", "epochs=2"])

    def little_memory(network: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        now = trainer.state.step == 3 if network.training else trainer.state.epoch == 0
        if distributed.rank() == 1 and network.training == (where == "training") and now and len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with open_run_directory(config, Path(FOLDER) / where) as run_dir:
        trainer = build_trainer(config, run_dir, torch.device("cpu"))
        network: Any = trainer.model
        # Behind the first layers, which have memory.
        list(network.modules())[-1].register_forward_pre_hook(little_memory)
        try:
            trainer.fit()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "no error"


def agreement() -> list[int]:
    """Rank 1 asks for 3 in the second question: both ranks learn it at the third."""
    agreed, answers = Agreement(), []
    for question in range(4):
        answers.append(agreed.answer())
        agreed.ask(3 if question == 1 and distributed.rank() == 1 else 0)
    agreed.answer()
    return answers


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    with distributed.process_group("cpu"):
        figures["answers"] = distributed.gather(agreement())
        for name, words in WAYS.items():
            trainer = fit(name, *words)
            if name == "sharded":
                own = sum(each.to_local().numel() for each in trainer.model.parameters())
                figures["share"] = own / sum(each.numel() for each in trainer.model.parameters())
        for name, first, second in (("out", ("sharding=full",), ()), ("in", (), ("sharding=full",))):
            break_off(name, *first)
            trainer = fit(name, *second)
            figures[f"resumed {name}"] = trainer.resumed_at
        for where in ("training", "validation"):
            figures[f"{where} ended"] = distributed.gather(run_out(where))
            figures[f"{where} resumed at"] = fit(where, "microbatch=null", "epochs=2").resumed_at
        fit("two epochs", "microbatch=null", "epochs=2")
        if distributed.is_main():
            for where in ("training", "validation"):
                figures[where] = max(distance(where, "two epochs", key) for key in ("model", "average"))
            for name in (*WAYS, "out", "in"):
                reference = "whole" if name == "static graph" else "ddp"
                figures[name] = max(distance(name, reference, key) for key in ("model", "average"))
            print("figures", json.dumps(figures))


main()
