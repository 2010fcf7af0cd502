"""A loss that is not finite or stays at chance: the run stops, goes back, or warns."""

from pathlib import Path

import pytest
import torch

from imgcls.checkpoints import load_checkpoint
from imgcls.runs import Interrupted
from imgcls.training import DivergedError, StuckError, Trainer

from .helpers import (
    EVERYTHING,
    Killed,
    Make,
    Train,
    all_of,
    differences,
    kill_at_step,
    poison,
    rows,
    same,
    stop_at_step,
)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match=r"step 8 \(epoch 2\) is not finite.*optimizer\.lr"):
        train(tiny_config("log_every_steps=100"), before=poison(7))
    saved = load_checkpoint(tmp_path / "run/last.pt")
    assert saved["state"]["step"] == 5
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_rollback_goes_back_to_the_start_of_the_epoch_with_a_smaller_lr(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("on_divergence=rollback", "divergence.lr_factor=0.1", "schedule=constant", *EVERYTHING)
    results = train(config, before=poison(8, rollbacks=1))
    assert results["steps"] == 15
    assert (
        "the loss at step 9 (epoch 2) is not finite: going back to step 5 with lr x 0.1 (1 of 3 times)" in caplog.text
    )
    logged = [(int(row["step"]), float(row["lr"])) for row in rows(tmp_path / "run")]
    assert [step for step, _ in logged] == [2, 4, 5, 6, 8, 10, 10, 12, 14, 15]
    assert all(lr == pytest.approx(0.02 if step <= 5 else 0.002) for step, lr in logged)
    assert {file.name for file in (tmp_path / "run").glob("epoch_*")} == {"epoch_0003.pt"}


@pytest.mark.e2e
def test_a_run_that_may_roll_back_only_after_a_resume_goes_back_to_where_it_was_resumed(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        train(tiny_config("on_divergence=rollback"), before=stop_at_step(7))
    with pytest.raises(Interrupted):
        train(tiny_config(), before=stop_at_step(13))
    assert train(tiny_config("on_divergence=rollback"), before=poison(14, rollbacks=1))["steps"] == 15
    assert "going back to step 13" in caplog.text


def test_a_run_that_diverges_before_its_first_save_does_not_claim_one(tiny_config: Make, train: Train) -> None:
    with pytest.raises(DivergedError, match="nothing was saved before it"):
        train(tiny_config(), before=poison(2))


@pytest.mark.parametrize("step", [0, 2])
def test_a_run_that_diverges_in_its_first_epoch_goes_back_to_its_beginning(
    step: int, tiny_config: Make, train: Train
) -> None:
    config = tiny_config("on_divergence=rollback", "epochs=1")
    assert train(config, before=poison(step, rollbacks=2))["steps"] == 5


@pytest.mark.parametrize("step", [8, *(pytest.param(step, marks=pytest.mark.e2e) for step in (6, 9, 12))])
def test_a_run_that_went_back_and_was_stopped_equals_the_one_that_only_went_back(
    step: int, tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    plateau = ("schedule=plateau", "schedule.patience_epochs=1")
    config = tiny_config("on_divergence=rollback", *plateau, "logger=tensorboard", *EVERYTHING)
    whole = train(config, "whole", poison(8, rollbacks=1))

    with pytest.raises(Interrupted):
        train(config, "cut", all_of(poison(8, rollbacks=1), stop_at_step(step)))
    resumed = train(config, "cut", poison(8, rollbacks=1))
    assert same(whole["weights"], resumed["weights"])
    assert differences(tmp_path / "whole", tmp_path / "cut") == []


@pytest.mark.e2e
def test_a_run_killed_after_it_went_back_equals_the_one_that_only_went_back(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    def save(trainer: Trainer) -> None:
        # The newest checkpoint is of the steps that led to the divergence; metrics.csv soon has other ones.
        trainer.save_requested = trainer.state.rollbacks == 0 and trainer.state.step in (7, 8)

    save_then_poison_then_kill = all_of(
        lambda trainer: trainer.after_step.append(save), poison(8, rollbacks=1), kill_at_step(9, rollbacks=1)
    )
    config = tiny_config("on_divergence=rollback", "log_every_steps=1")
    train(config, "whole", poison(8, rollbacks=1))
    with pytest.raises(Killed):
        train(config, "cut", save_then_poison_then_kill)
    assert load_checkpoint(tmp_path / "cut/last.pt")["state"]["rollbacks"] == 1
    assert not (tmp_path / "cut/previous.pt").exists()
    train(config, "cut", poison(8, rollbacks=1))
    assert differences(tmp_path / "whole", tmp_path / "cut") == []


def test_a_run_goes_back_only_so_often(tiny_config: Make, train: Train) -> None:
    config = tiny_config("on_divergence=rollback", "divergence.max_rollbacks=2")
    with pytest.raises(
        DivergedError, match=r"step 9 \(epoch 2\) is not finite after going back 2 times.*optimizer\.lr"
    ):
        train(config, before=poison(8))


def ignorant(trainer: Trainer) -> None:
    """Make a network that gives all classes the same logit."""
    for parameter in trainer.model.parameters():
        torch.nn.init.zeros_(parameter)


def test_a_loss_that_stays_at_chance_is_warned_of_once_with_what_to_try(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("optimizer.lr=0", "divergence.stuck_epochs=1", "log_every_steps=1", "label_smoothing=0.1")
    train(config, before=ignorant)
    warnings = [record.getMessage() for record in caplog.records if "has stayed at" in record.getMessage()]
    assert len(warnings) == 1
    assert "stayed at 1.099 for 5 steps" in warnings[0]
    assert "optimizer.lr" in warnings[0]


def test_a_stuck_loss_stops_the_run_if_asked_for(tiny_config: Make, train: Train) -> None:
    config = tiny_config("optimizer.lr=0", "log_every_steps=1", "divergence.stuck_steps=4", "divergence.on_stuck=stop")
    with pytest.raises(StuckError, match=r"stayed at 1\.099 for 4 steps.*divergence\.on_stuck=warn"):
        train(config, before=ignorant)


def test_one_reading_at_chance_is_not_called_stuck(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    for log_every, warned in ((6, False), (5, True)):
        caplog.clear()
        config = tiny_config("optimizer.lr=0", "divergence.stuck_steps=2", f"log_every_steps={log_every}")
        train(config, str(log_every), before=ignorant)
        assert ("has stayed" in caplog.text) == warned


@pytest.mark.e2e
def test_a_loss_that_falls_is_not_called_stuck(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny_config("epochs=6", "divergence.stuck_epochs=4", "log_every_steps=1"))
    assert "has stayed" not in caplog.text
