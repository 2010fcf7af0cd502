"""The loop: it learns, counts rightly, accumulates rightly, and goes on where it stopped, bit for bit."""

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls import checkpoint
from imgcls.config import Config
from imgcls.signals import EXIT_REQUEUE, Interrupted
from imgcls.trainer import DivergedError, Trainer

Make = Callable[..., Config]
Train = Callable[..., dict[str, Any]]

# Everything that has a state or draws at random, at once.
EVERYTHING = ("augment=modern", "augment.policy=null", "ema_decay=0.9", "label_smoothing=0.1", "microbatch=5")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stop_at_step(step: int) -> Callable[[Trainer], None]:
    def before(trainer: Trainer) -> None:
        heed = trainer.heed_signals

        def heed_signals(*, save: bool = False) -> None:
            if trainer.state.step == step:
                trainer.signals.received = signal.SIGTERM
            heed(save=save)

        trainer.heed_signals = heed_signals

    return before


def test_a_run_learns_and_leaves_everything_it_should(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    results = train(tiny_config("epochs=6", "tensorboard=true"))
    assert results["val_top1"] > 60
    assert results["steps"] == 30
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"config.json", "metrics.csv", "last.pt", "previous.pt", "best.pt", "results.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    by_epoch = [row for row in rows(tmp_path / "run") if row["val/top1"]]
    assert [row["epoch"] for row in by_epoch] == ["1", "2", "3", "4", "5", "6"]
    assert float(by_epoch[-1]["train/loss"]) < float(by_epoch[0]["train/loss"])
    assert by_epoch[0]["val/top5"] == ""  # three classes
    best = checkpoint.load(tmp_path / "run/best.pt")
    assert best["classes"] == ["blue", "green", "red"]
    assert best["val"]["top1"] == results["val_top1"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    one = train(tiny_config("data.num_threads=1", *EVERYTHING), "one")
    same_seed = train(tiny_config("data.num_threads=3", *EVERYTHING), "two")
    other = train(tiny_config("seed=1", *EVERYTHING), "three")
    assert same(one["weights"], same_seed["weights"])
    assert (tmp_path / "one/metrics.csv").read_bytes() == (tmp_path / "two/metrics.csv").read_bytes()
    assert not same(one["weights"], other["weights"])


@pytest.mark.parametrize("step", [1, 4, 5, 8, 15])
def test_a_run_stopped_at_any_step_and_resumed_equals_the_unbroken_one(
    step: int, tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    config = tiny_config("schedule=plateau", "schedule.patience_epochs=1", "tensorboard=true", *EVERYTHING)
    whole = train(config, "whole")
    with pytest.raises(Interrupted) as stopped:
        train(config, "cut", stop_at_step(step))
    assert stopped.value.exit_code == EXIT_REQUEUE
    resumed = train(config, "cut")
    assert same(whole["weights"], resumed["weights"])
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "cut/metrics.csv").read_bytes()
    last, other = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    for each in (last, other):
        del each["events"], each["state"]["seconds"]
    assert checkpoint.checksum(last) == checkpoint.checksum(other)


def test_a_run_killed_between_checkpoints_goes_back_to_the_last_and_tells_no_step_twice(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Killed(BaseException):
        pass

    def kill(trainer: Trainer) -> None:
        step = trainer.train_step

        def train_step(batch):
            if trainer.state.step == 9:
                raise Killed
            return step(batch)

        trainer.train_step = train_step

    config = tiny_config("tensorboard=true")
    whole = train(config, "whole")
    with pytest.raises(Killed):
        train(config, "killed", kill)
    resumed = train(config, "killed")
    assert same(whole["weights"], resumed["weights"])
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "killed/metrics.csv").read_bytes()
    told = {}
    for name in ("whole", "killed"):
        events = EventAccumulator(str(tmp_path / name)).Reload()
        told[name] = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in ("train/loss", "val/top1", "lr")
        }
    assert told["whole"] == told["killed"]
    assert [step for step, _ in told["whole"]["val/top1"]] == [5, 10, 15]


def test_microbatches_give_the_gradient_of_the_whole_batch(tiny_config: Make, train: Train) -> None:
    whole = train(tiny_config("max_steps=3"), "whole")
    parts = train(tiny_config("max_steps=3", "microbatch=5"), "parts")  # 12 images in parts of 4
    for key, weight in whole["weights"].items():
        torch.testing.assert_close(parts["weights"][key], weight, rtol=1e-4, atol=1e-6)
    assert whole["val_loss"] == pytest.approx(parts["val_loss"], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    def poison(trainer: Trainer) -> None:
        step = trainer.train_step

        def train_step(batch):
            if trainer.state.step == 7:
                with torch.no_grad():
                    next(trainer.model.parameters()).fill_(float("nan"))
            return step(batch)

        trainer.train_step = train_step

    with pytest.raises(DivergedError, match=r"step 8 \(epoch 2\) is not finite.*optimizer\.lr"):
        train(tiny_config("log_every_steps=100"), before=poison)
    saved = checkpoint.load(tmp_path / "run/last.pt")
    assert saved["state"]["step"] == 5
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_max_steps_ends_with_a_validation(tiny_config: Make, train: Train) -> None:
    results = train(tiny_config("max_steps=7"))
    assert results["steps"] == 7
    assert results["epochs"] == 2


def test_gradient_clipping_bounds_the_step(tiny_config: Make, train: Train) -> None:
    free = train(tiny_config("max_steps=1", "schedule=constant", "optimizer.weight_decay=0"), "free")
    start = train(tiny_config("max_steps=1", "optimizer.lr=0"), "start")
    clipped = train(
        tiny_config("max_steps=1", "schedule=constant", "optimizer.weight_decay=0", "clip_grad_norm=0.001"), "clipped"
    )

    def moved(results: dict[str, Any]) -> float:
        return sum((results["weights"][k] - start["weights"][k]).square().sum().item() for k in start["weights"]) ** 0.5

    assert moved(clipped) == pytest.approx(0.001 * 0.02, rel=1e-3)
    assert moved(free) > 10 * moved(clipped)


def test_the_best_epoch_is_the_one_kept(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    results = train(tiny_config("epochs=5"))
    scores = {int(row["epoch"]): float(row["val/top1"]) for row in rows(tmp_path / "run") if row["val/top1"]}
    assert results["val_top1"] == max(scores.values())
    assert scores[results["best_epoch"]] == max(scores.values())
    assert checkpoint.load(tmp_path / "run/best.pt")["epoch"] == results["best_epoch"]


def test_the_average_of_the_weights_is_what_is_validated_and_kept(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    train(tiny_config("ema_decay=0.99", "epochs=1"))
    best, last = (checkpoint.load(tmp_path / "run" / name) for name in ("best.pt", "last.pt"))
    assert same(best["model"], last["average"])
    assert not same(best["model"], last["model"])
