"""A run that was stopped or killed, and resumed, equals the unbroken one bit for bit."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from imgcls import distributed
from imgcls.checkpoints import CheckpointError, checksum, load_checkpoint, save_checkpoint
from imgcls.data.loading import Batch
from imgcls.errors import EXIT_REQUEUE
from imgcls.metrics import Scores
from imgcls.runs import Interrupted, results_table
from imgcls.training import State, Trainer

from .helpers import (
    EVERYTHING,
    Killed,
    LoaderWrapper,
    Make,
    Prepare,
    Train,
    all_of,
    differences,
    kill_at_step,
    same,
    stop_at_step,
)


def test_top5_and_loss_beat_the_best_so_far_by_their_own_measure() -> None:
    best = {"top1": 50.0, "top5": 80.0, "loss": 1.0}
    val = Scores(loss=0.9, top1=40, top5=85, num_images=10)
    assert State(best=best).improve(val, "loss")
    assert State(best=best).improve(val, "top5")
    assert not State(best=best).improve(val, "top1")
    assert not State(best=best).improve(Scores(loss=1.0, top1=50, top5=80, num_images=10), "loss")
    assert State().improve(val, "top5")


@pytest.mark.parametrize("step", [4, *(pytest.param(step, marks=pytest.mark.e2e) for step in (1, 5, 8, 15))])
def test_a_run_stopped_at_any_step_and_resumed_equals_the_unbroken_one(
    step: int, tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    config = tiny_config("schedule=plateau", "schedule.patience_epochs=1", "logger=tensorboard", *EVERYTHING)
    whole = train(config, "whole")
    with pytest.raises(Interrupted) as stopped:
        train(config, "cut", stop_at_step(step))
    assert stopped.value.exit_code == EXIT_REQUEUE
    resumed = train(config, "cut")
    assert same(whole["weights"], resumed["weights"])
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "cut/metrics.csv").read_bytes()
    last, other = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    for each in (last, other):
        del each["events"], each["state"]["seconds"]
    assert checksum(last) == checksum(other)


@pytest.mark.e2e
def test_a_run_killed_between_checkpoints_goes_back_to_the_last_and_logs_no_step_twice(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config("logger=tensorboard")
    whole = train(config, "whole")
    with pytest.raises(Killed):
        train(config, "killed", kill_at_step(9))
    resumed = train(config, "killed")
    assert same(whole["weights"], resumed["weights"])
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "killed/metrics.csv").read_bytes()
    logged = {}
    for name in ("whole", "killed"):
        events = EventAccumulator(str(tmp_path / name)).Reload()
        logged[name] = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in ("train/loss", "eval/top1", "train/lr")
        }
    assert logged["whole"] == logged["killed"]
    assert [step for step, _ in logged["whole"]["eval/top1"]] == [5, 10, 15]


def count_steps(steps: list[int]) -> Prepare:
    """Note every optimizer step in `steps`."""
    return lambda trainer: trainer.after_step.append(lambda trainer: steps.append(trainer.state.step))


def test_a_run_stopped_in_validation_resumes_there_and_trains_nothing_again(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    config = tiny_config("epochs=1", "batch_size=6")

    def stop(trainer: Trainer) -> None:
        trainer.signals.received = signal.SIGUSR1

    steps: list[int] = []
    whole = train(config, "whole")
    with pytest.raises(Interrupted, match="stopped by SIGUSR1: saved after step 10"):
        train(config, "cut", lambda trainer: trainer.before_validation.append(stop))
    assert not (tmp_path / "cut/best.pt").exists()
    resumed = train(config, "cut", count_steps(steps))
    assert steps == []
    assert same(whole["weights"], resumed["weights"])
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "cut/metrics.csv").read_bytes()


def test_a_run_of_max_steps_killed_before_its_results_are_written_trains_and_validates_nothing_more(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    config = tiny_config("max_steps=7")
    whole = train(config)
    before = (tmp_path / "run/metrics.csv").read_bytes()
    (tmp_path / "run/results.json").unlink()
    again = train(config)
    assert (tmp_path / "run/metrics.csv").read_bytes() == before
    assert (again["epochs"], again["val_top1"]) == (whole["epochs"], whole["val_top1"])


@pytest.mark.e2e
@pytest.mark.parametrize("step", [3, 7])
def test_dropout_and_loss_scaling_go_on_where_they_were(
    step: int, tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    def growing() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", enabled=True, init_scale=64.0, growth_interval=4)

    def add_dropout(trainer: Trainer) -> None:
        last = [module for module in trainer.model.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.register_forward_pre_hook(
            lambda module, inputs: torch.nn.functional.dropout(inputs[0], 0.5, module.training)
        )

    whole = train(tiny_config(), "whole", add_dropout, new_scaler=growing)
    with pytest.raises(Interrupted):
        train(tiny_config(), "cut", all_of(add_dropout, stop_at_step(step)), new_scaler=growing)
    resumed = train(tiny_config(), "cut", add_dropout, new_scaler=growing)
    assert load_checkpoint(tmp_path / "cut/last.pt")["scaler"]["scale"] == 64 * 2**3  # 15 steps, doubled every 4
    assert same(whole["weights"], resumed["weights"])
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    assert not same(whole["weights"], train(tiny_config(), "dry", new_scaler=growing)["weights"])


def test_a_run_resumed_in_the_middle_of_an_epoch_decodes_nothing_of_what_came_before(
    tiny_config: Make, train: Train, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(tiny_folder, folder)
    config = tiny_config("epochs=1", f"data.root={folder}")
    trained_on: list[int] = []

    def note(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            trained_on.extend(batch.indices.tolist())
            yield batch

    def note_and_stop(trainer: Trainer) -> None:
        trainer.train_loader = LoaderWrapper(trainer.train_loader, note)  # type: ignore[assignment]
        stop_at_step(3)(trainer)

    with pytest.raises(Interrupted):
        train(config, before=note_and_stop)
    assert len(trained_on) == 3 * 12
    files = sorted((folder / "train").rglob("*.JPEG"))
    for index in trained_on:  # to decode one of them again is an error
        files[index].write_bytes(b"")
    assert train(config)["steps"] == 5


def test_a_run_is_resumed_without_the_weights_that_it_started_from(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    train(tiny_config("epochs=1"), "first")
    start = tmp_path / "start.pt"
    (tmp_path / "first/best.pt").rename(start)
    config = tiny_config(f"weights={start}")
    whole = train(config, "whole")
    with pytest.raises(Interrupted):
        train(config, "cut", stop_at_step(7))
    start.unlink()
    assert same(train(config, "cut")["weights"], whole["weights"])


def test_skipped_images_are_counted_in_a_resumed_run_too(
    tiny_config: Make, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    known: list[int] = []

    def skip_a_few(trainer: Trainer) -> None:
        known.extend(trainer.train_loader.bad_images.share())
        trainer.train_loader.bad_images.add([3, 5])

    config = tiny_config("logger=tensorboard", "data.max_bad_share=0.5")
    with pytest.raises(Interrupted):
        train(config, "cut", all_of(skip_a_few, stop_at_step(7)))
    assert load_checkpoint(tmp_path / "cut/last.pt")["bad_images"] == [3, 5]
    assert known == []
    train(config, "cut", skip_a_few)
    assert known == [3, 5]
    logged = EventAccumulator(str(tmp_path / "cut")).Reload().Scalars("data/bad_images")
    assert [(event.step, event.value) for event in logged] == [(step, 2) for step in range(2, 15, 2)]


@pytest.fixture
def other_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny folder with another name for one class."""
    copy = tmp_path / "other"
    shutil.copytree(tiny_folder, copy)
    for part in ("train", "val"):
        (copy / part / "red").rename(copy / part / "amber")
    return copy


def test_a_run_is_not_resumed_on_other_images(tiny_config: Make, train: Train, other_folder: Path) -> None:
    with pytest.raises(Interrupted):
        train(tiny_config(), before=stop_at_step(7))
    with pytest.raises(
        ValueError, match=r"a run of another data set \(checksum: .* there, .* now\).*name=.*overwrite=true"
    ):
        train(tiny_config(f"data.root={other_folder}"))


def test_a_run_is_not_resumed_by_a_release_with_other_metrics(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tiny_config(), before=stop_at_step(7))
    file = tmp_path / "run/last.pt"
    save_checkpoint(load_checkpoint(file) | {"metrics": "loss"}, file)
    with pytest.raises(ValueError, match=r"another release of imgcls \(metrics: loss there, .*, balanced now\)"):
        train(tiny_config())


def test_ranks_that_read_different_runs_are_refused(tiny_config: Make, train: Train, monkeypatch) -> None:
    monkeypatch.setattr(distributed, "agree", lambda flag: max(flag, 9))
    with pytest.raises(CheckpointError, match=r"not the same on all ranks.*a disk that all nodes share"):
        train(tiny_config())


@pytest.mark.parametrize("torn", [False, True])
def test_a_resumed_run_whose_best_weights_are_lost_says_so_and_does_not_name_them(
    torn: bool,
    tiny_config: Make,
    train: Train,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = tiny_config()
    with pytest.raises(Interrupted):
        train(config, before=stop_at_step(7))
    best = tmp_path / "run" / "best.pt"
    best.write_bytes(best.read_bytes()[:1000]) if torn else best.unlink()

    def keep_the_best(trainer: Trainer) -> None:
        trainer.state.best = dict.fromkeys(trainer.state.best, 100.0) | {"loss": 0.0}  # no later epoch is better

    results = train(config, before=keep_the_best)
    assert ("best.pt is damaged" if torn else "best.pt is gone") in caplog.text
    assert "the weights of the best epoch, 1, are lost" in caplog.text
    assert not best.exists()
    assert "none: " in results_table(results, tmp_path / "run")


def test_of_two_epochs_that_are_equal_the_one_with_the_lower_loss_is_the_better() -> None:
    state, scores = State(epoch=1), {"num_images": 10, "top1": 90.0}
    assert state.improve(Scores(loss=1.0, **scores), "top1")
    assert not state.improve(Scores(loss=1.0, **scores), "top1")
    assert state.improve(Scores(loss=0.5, **scores), "top1")
    assert not state.improve(Scores(num_images=10, loss=0.1, top1=80.0), "top1")
