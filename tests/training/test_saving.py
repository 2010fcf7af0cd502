"""What is saved and kept, whatever ends the run."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from imgcls.checkpoints import list_differences, load_checkpoint
from imgcls.data.decoding import BadImageError
from imgcls.data.loading import Batch
from imgcls.runs import DiskError
from imgcls.training import (
    DivergedError,
    Trainer,
    build_trainer,
    open_run_directory,
)

from .helpers import (
    LoaderWrapper,
    Make,
    Train,
    fill_a_weight,
    same,
)


def test_a_run_that_ends_between_the_best_and_the_last_checkpoint_loses_neither(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    config = tiny_config("epochs=2")
    train(config, "whole")
    blocked = tmp_path / "cut/last.pt.partial"  # where last.pt is written, a directory: that fails, after best.pt
    with pytest.raises(OSError, match=r"last\.pt"):
        train(config, "cut", lambda trainer: blocked.mkdir())
    blocked.rmdir()
    assert (tmp_path / "cut/best.pt").exists()
    assert not (tmp_path / "cut/last.pt").exists()
    train(config, "cut")
    whole, cut = (load_checkpoint(tmp_path / name / "best.pt") for name in ("whole", "cut"))
    assert list_differences(whole, cut) == []


def test_weights_that_the_last_step_ruined_are_not_saved(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    def ruin_and_save(trainer: Trainer) -> None:
        if trainer.state.step == 7:
            fill_a_weight(trainer, float("inf"))
        trainer.save_requested = True

    with pytest.raises(DivergedError, match="the weights after step 7 are not finite"):
        train(tiny_config(), before=lambda trainer: trainer.after_step.append(ruin_and_save))
    saved = load_checkpoint(tmp_path / "run/last.pt")
    assert saved["state"]["step"] == 6
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_a_run_killed_before_its_results_goes_on_from_the_checkpoint_before_a_torn_last_one(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    config = tiny_config()
    whole = train(config, "whole")
    with open_run_directory(config, tmp_path / "cut") as run_dir:
        build_trainer(config, run_dir, torch.device("cpu")).fit()  # and killed here
    last = tmp_path / "cut/last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    resumed = train(config, "cut")
    assert same(whole["weights"], resumed["weights"])
    assert load_checkpoint(last)["state"]["epoch"] == 3
    assert not (tmp_path / "cut/previous.pt").exists()


def test_the_newest_epochs_are_kept_and_each_can_be_resumed(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    config = tiny_config("epochs=4", "checkpoint.keep=2")
    whole = train(config)
    assert sorted(file.name for file in (tmp_path / "run").glob("epoch_*")) == ["epoch_0003.pt", "epoch_0004.pt"]
    (tmp_path / "run/epoch_0003.pt").replace(tmp_path / "run/last.pt")
    again = train(config)
    assert same(whole["weights"], again["weights"])


def test_a_run_whose_newest_files_are_all_damaged_goes_on_from_a_kept_epoch(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = tiny_config("checkpoint.keep=3")
    whole = train(config)
    for name in ("last.pt", "epoch_0003.pt"):  # previous.pt is gone, as the run had finished
        (tmp_path / "run" / name).write_bytes(b"torn")
    assert same(train(config)["weights"], whole["weights"])
    assert "going on after step 10, in epoch 3" in caplog.text
    assert (tmp_path / "run/last.pt.damaged").exists()


@pytest.mark.parametrize(
    "written, words",
    [
        # The first epoch writes best.pt before last.pt, and best.pt alone is nothing to resume from.
        ("best.pt", "nothing was saved to resume from: make room .* again, .* starts from the beginning"),
        ("last.pt", r"run/last\.pt is intact: make room .* again, .* resumes from there"),
    ],
)
def test_a_full_disk_ends_the_run_with_its_name_and_leaves_the_old_checkpoint(
    written: str, words: str, tiny_config: Make, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, sync = tiny_config(), os.fsync

    def full(descriptor: int) -> None:
        if (tmp_path / "run" / written).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match=rf"run\S*: No space left.*{words}") as error:
            train(config)
    assert error.value.exit_code == 1
    assert train(config)["steps"] == 15


def test_a_broken_image_ends_the_run_after_its_last_step_and_loses_none(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    def break_an_image(trainer: Trainer) -> None:
        def broken(batches: Iterator[Batch]) -> Iterator[Batch]:
            for batch in batches:
                if trainer.state.step == 7:
                    raise BadImageError("train/red/03.JPEG", "is gone since the folder was listed")
                yield batch

        trainer.train_loader = LoaderWrapper(trainer.train_loader, broken)  # type: ignore[assignment]

    whole = train(tiny_config(), "whole")
    with pytest.raises(BadImageError, match=r"03\.JPEG: is gone"):
        train(tiny_config(), "cut", break_an_image)
    assert load_checkpoint(tmp_path / "cut/last.pt")["state"]["step"] == 7
    assert same(whole["weights"], train(tiny_config(), "cut")["weights"])


@pytest.mark.e2e
def test_a_command_that_fails_before_it_trains_costs_no_earlier_run(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    train(tiny_config("epochs=1"))
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    for wrong in ("optimizer.lr=-1", "data.root=nowhere", "image_size=8", "schedule.patience_epochs=0"):
        with pytest.raises((ValueError, FileNotFoundError)):
            train(tiny_config("overwrite=true", wrong))
        assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
    assert train(tiny_config("overwrite=true", "optimizer.lr=0.01", "epochs=2"))["steps"] == 10
