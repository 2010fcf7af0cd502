"""The loop: it learns, counts rightly, accumulates rightly, and gives the same bits for the same seed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from imgcls import distributed
from imgcls.checkpoints import load_checkpoint
from imgcls.data.loading import Batch
from imgcls.errors import ConfigError
from imgcls.training import Trainer

from .helpers import EVERYTHING, LoaderWrapper, Make, Train, rows, same


def test_a_run_learns_and_leaves_everything_it_should(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    results = train(tiny_config("epochs=6", "logger=tensorboard"))
    assert results["val_top1"] > 60
    assert results["steps"] == 30
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"config.json", "metrics.csv", "last.pt", "best.pt", "results.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    by_epoch = [row for row in rows(tmp_path / "run") if row["val/top1"]]
    assert [row["epoch"] for row in by_epoch] == ["1", "2", "3", "4", "5", "6"]
    assert float(by_epoch[-1]["train_epoch/loss"]) < float(by_epoch[0]["train_epoch/loss"])
    assert by_epoch[0]["val/top5"] == ""  # three classes
    best = load_checkpoint(tmp_path / "run/best.pt")
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


def test_microbatches_give_the_gradient_of_the_whole_batch(tiny_config: Make, train: Train) -> None:
    whole = train(tiny_config("max_steps=3"), "whole")
    parts = train(tiny_config("max_steps=3", "microbatch=5"), "parts")  # 12 images in parts of 4
    for key, weight in whole["weights"].items():
        torch.testing.assert_close(parts["weights"][key], weight, rtol=1e-4, atol=1e-6)
    assert whole["val_loss"] == pytest.approx(parts["val_loss"], rel=1e-5)


def test_max_steps_ends_with_a_validation(tiny_config: Make, train: Train) -> None:
    results = train(tiny_config("max_steps=7"))
    assert results["steps"] == 7
    assert results["epochs"] == 2


@pytest.mark.e2e
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
    assert load_checkpoint(tmp_path / "run/best.pt")["epoch"] == results["best_epoch"]


@pytest.mark.e2e
def test_the_best_epoch_is_chosen_by_the_metric_asked_for(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    results = train(tiny_config("epochs=5", "checkpoint.best_metric=loss"))
    losses = {int(row["epoch"]): float(row["val/loss"]) for row in rows(tmp_path / "run") if row["val/loss"]}
    assert results["best_epoch"] == min(losses, key=losses.__getitem__)
    with pytest.raises(ConfigError, match=r"best_metric=top5 needs .* 6 classes.* has 3; use loss or top1"):
        train(tiny_config("checkpoint.best_metric=top5"), "other")


def test_the_average_of_the_weights_is_what_is_validated_and_kept(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    train(tiny_config("ema_decay=0.99", "epochs=1"))
    best, last = (load_checkpoint(tmp_path / "run" / name) for name in ("best.pt", "last.pt"))
    assert same(best["model"], last["average"])
    assert not same(best["model"], last["model"])


def test_the_scores_of_the_raw_weights_are_logged_beside_those_of_their_average(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    caplog.set_level("INFO")
    averaged = train(tiny_config("ema_decay=0.9", "logger=tensorboard"), "averaged")
    plain = train(tiny_config("logger=tensorboard"), "plain")
    assert same(averaged["weights"], plain["weights"])  # the average follows the weights and changes none
    raw = [row["val_raw/loss"] for row in rows(tmp_path / "averaged") if row["val/loss"]]
    assert raw == [row["val/loss"] for row in rows(tmp_path / "plain") if row["val/loss"]]
    assert raw != [row["val/loss"] for row in rows(tmp_path / "averaged") if row["val/loss"]]
    assert "val_raw/loss" not in rows(tmp_path / "plain")[0]
    events = EventAccumulator(str(tmp_path / "averaged")).Reload()
    assert [event.step for event in events.Scalars("val_raw/top1")] == [5, 10, 15]
    assert "val of the raw weights" in caplog.text


def test_an_average_that_begins_later_keeps_the_columns_of_the_metrics(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(tiny_config("epochs=1"))
    columns = rows(tmp_path / "run")[0].keys()
    train(tiny_config("epochs=2", "ema_decay=0.9", "continue_run=true"))
    assert all(row.keys() == columns and None not in row.values() for row in rows(tmp_path / "run"))
    assert "the loggers alone get val_raw/" in caplog.text


def test_validation_too_takes_no_more_images_at_a_time_than_the_microbatch(tiny_config: Make, train: Train) -> None:
    sizes: list[int] = []

    def note(trainer: Trainer) -> None:
        trainer.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))

    parts = train(tiny_config("max_steps=1", "microbatch=5"), "parts", note)
    assert sizes == [4, 4, 4, 5, 5, 2, 3]  # 12 images in equal parts; 12 and 3 to validate
    assert parts["val_loss"] == pytest.approx(train(tiny_config("max_steps=1"), "whole")["val_loss"], rel=1e-5)


def test_the_loaders_batches_are_closed_when_an_epoch_ends_early(tiny_config: Make, train: Train) -> None:
    closed: list[str] = []
    references = []  # as a traceback keeps them

    def watched(batches: Iterator[Batch]) -> Iterator[Batch]:
        try:
            yield from batches
        finally:
            closed.append("closed")

    def watch(batches: Iterator[Batch]) -> Iterator[Batch]:
        references.append(watched(batches))
        return references[-1]

    def prepare(trainer: Trainer) -> None:
        trainer.train_loader = LoaderWrapper(trainer.train_loader, watch)  # type: ignore[assignment]
        trainer.before_validation.append(lambda trainer: closed.append("validation"))

    train(tiny_config("max_steps=2"), before=prepare)
    assert closed == ["closed", "validation"]


def test_ranks_exchange_gradients_once_a_step_however_many_parts_it_has(tiny_config: Make, train: Train) -> None:
    exchanged: list[int] = []

    def count(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        exchanged.append(bucket.index())
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    def distribute(trainer: Trainer) -> None:
        trainer.train_model = DistributedDataParallel(trainer.model)
        trainer.train_model.register_comm_hook(None, count)

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        train(tiny_config("microbatch=4", "max_steps=5", "epochs=1"), before=distribute)
    finally:
        dist.destroy_process_group()
    assert exchanged == [0] * 5


def test_what_is_validated_is_the_same_on_every_rank(
    tiny_config: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    broadcast: list[torch.nn.Module] = []
    monkeypatch.setattr(distributed, "broadcast_buffers", broadcast.append)
    trainers: list[Trainer] = []
    train(tiny_config("ema_decay=0.9", "epochs=1"), before=trainers.append)
    assert trainers[0].average is not None
    assert broadcast == [trainers[0].model, trainers[0].average.model]


@pytest.mark.parametrize("part", ["train", "val"])
def test_images_that_another_rank_skipped_count_against_the_limit(part: str, tiny_config: Make, train: Train) -> None:
    def skip_one(trainer: Trainer) -> None:
        loader = trainer.train_loader if part == "train" else trainer.val_loader
        loader.bad_images.add([3])  # as `share` does

    with pytest.raises(ValueError, match=r"1 of (60|15) images are bad, more than 0 of them"):
        train(tiny_config("data.max_bad_share=0"), "run", skip_one)


def test_mixed_images_count_by_the_class_of_the_larger_share_and_the_log_says_so_once(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def mix(trainer: Trainer) -> None:
        plain = trainer.augment

        def mixed(batch: Batch, epoch: int) -> tuple[Any, Any]:
            images, labels = plain(batch, epoch)
            own, other = (torch.nn.functional.one_hot((labels + shift) % 3, 3).float() for shift in (0, 1))
            return images, 0.1 * own + 0.9 * other

        trainer.augment = mixed

    with caplog.at_level("INFO"):
        train(tiny_config("epochs=6"), before=mix)
    assert float(rows(tmp_path / "run")[-1]["train_epoch/top1"]) > 60
    assert caplog.text.count("by the class that has the larger share of it") == 1


def test_a_run_has_the_top_ks_that_it_is_asked_for(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    results = train(tiny_config("topk=[2,1]", "checkpoint.best_metric=top2", "epochs=2"))
    assert results["val_top1"] <= results["val_top2"] <= 100
    assert "val_top5" not in results
    header = rows(tmp_path / "run")[0]
    assert [name for name in header if name.startswith("val/")] == ["val/loss", "val/top1", "val/top2", "val/balanced"]
