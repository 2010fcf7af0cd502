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
        if distributed.is_main():
            for name in (*WAYS, "out", "in"):
                reference = "whole" if name == "static graph" else "ddp"
                figures[name] = max(distance(name, reference, key) for key in ("model", "average"))
            print("figures", json.dumps(figures))


main()
