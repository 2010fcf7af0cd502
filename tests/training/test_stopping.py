"""When a run validates and when it ends: the same after a stop, and whatever ends it, its last step is validated."""

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imgcls.checkpoints import load_checkpoint
from imgcls.config import compose
from imgcls.errors import EXIT_REQUEUE, ConfigError
from imgcls.metrics import Scores
from imgcls.runs import Interrupted, StopSignals, results_table
from imgcls.training import Plateau, Trainer

from .helpers import EVERYTHING, Killed, Make, Train, all_of, differences, rows, same, stop_at_step

Prepare = Callable[[Trainer], None]


def validated(path: Path) -> list[int]:
    """Return the steps after which the run was validated."""
    return [int(row["step"]) for row in rows(path) if row["val/top1"]]


def scores(*top1: float) -> Prepare:
    """Let the validations give these scores in turn, each with a loss that gets no better."""
    left = list(top1)

    def prepare(trainer: Trainer) -> None:
        seen: list[float] = left[len(validated(trainer.checkpoints.run_dir)) :]

        def give() -> Scores:
            validate()
            return Scores(num_images=15, loss=1.0, top1=seen.pop(0))

        validate = trainer.validate
        trainer.validate = give  # type: ignore[method-assign]

    return prepare


@pytest.mark.parametrize(
    "every, steps",
    [("1", [5, 10, 15]), ("2", [10, 15]), ("5", [15]), ("0.4", [2, 4, 5, 7, 9, 10, 12, 14, 15])],
)
def test_a_run_is_validated_as_often_as_asked_and_always_at_the_end(
    every: str, steps: list[int], tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    results = train(tiny_config(f"validate_every={every}"))
    assert validated(tmp_path / "run") == steps
    by_epoch = [row for row in rows(tmp_path / "run") if int(row["step"]) % 5 == 0 and row["train_epoch/loss"]]
    assert [int(row["step"]) for row in by_epoch if row["train_epoch/loss"]][-1] == 15
    best = load_checkpoint(tmp_path / "run/best.pt")
    assert (best["epoch"], best["val"]["top1"]) == (results["best_epoch"], results["val_top1"])


def test_validating_within_an_epoch_changes_no_weight(tiny_config: Make, train: Train) -> None:
    often, once = train(tiny_config("validate_every=0.2"), "often"), train(tiny_config("validate_every=3"), "once")
    assert same(often["weights"], once["weights"])
    assert often["val_top1"] >= once["val_top1"]


@pytest.mark.parametrize("step", [2, pytest.param(4, marks=pytest.mark.e2e), pytest.param(5, marks=pytest.mark.e2e)])
@pytest.mark.parametrize("where", ["in validation", pytest.param("after the step", marks=pytest.mark.e2e)])
def test_a_run_stopped_at_a_validation_within_an_epoch_resumes_to_the_bit(
    where: str, step: int, tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    config = tiny_config("validate_every=0.4", "logger=tensorboard", "batch_size=12", "epochs=2", *EVERYTHING)
    whole = train(config, "whole")

    def stop(trainer: Trainer) -> None:
        if trainer.state.step == step:
            trainer.signals.received = signal.SIGTERM

    def stop_in_validation(trainer: Trainer) -> None:
        trainer.before_validation.append(stop)

    with pytest.raises((Interrupted, Killed)):
        train(config, "cut", stop_in_validation if where == "in validation" else stop_at_step(step))
    resumed = train(config, "cut")
    assert same(whole["weights"], resumed["weights"])
    assert differences(tmp_path / "whole", tmp_path / "cut") == []


def test_a_run_ends_when_its_best_epoch_is_long_ago_and_says_why(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = tiny_config("epochs=9", "early_stopping.patience_epochs=2")
    results = train(config, before=scores(10, 40, 30, 40, 50))
    assert (results["epochs"], results["best_epoch"]) == (4, 2)
    assert "ends after epoch 4 of 9: no better top-1 for 2 epochs (early_stopping.patience_epochs=2)" in caplog.text
    assert "no better top-1 for 2 epochs" in results_table(results, tmp_path / "run")
    # Killed before its results were written, it ends there again, and with more patience it goes on.
    (tmp_path / "run/results.json").unlink()
    assert train(config, before=scores())["epochs"] == 4
    more = tiny_config("epochs=6", "early_stopping.patience_epochs=4", "continue_run=true")
    assert train(more, before=scores(0, 0, 0, 0, 60, 20))["best_epoch"] == 5


def test_early_stopping_goes_by_the_metric_of_the_best_epoch_and_by_validated_epochs(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    words = ("epochs=9", "early_stopping.patience_epochs=3", "validate_every=2", "checkpoint.best_metric=loss")
    results = train(tiny_config(*words), before=scores(10, 40, 60, 70))
    # The loss is 1 each time; equal is not better. Epoch 5 is not validated, so epoch 6 decides.
    assert (results["best_epoch"], results["epochs"]) == (2, 6)
    assert validated(tmp_path / "run") == [10, 20, 30]


def test_a_plateau_ends_the_run_where_lr_would_drop_below_min_lr(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = ("schedule=plateau", "schedule.patience_epochs=1", "schedule.min_lr=0.002", "epochs=9")
    results = train(tiny_config(*words), before=scores(50, 40, 40, 90))
    assert results["epochs"] == 3  # lr 0.02, then 0.002, and 0.0002 would be next
    assert "lr would drop to 0.0002 (schedule.min_lr=0.002)" in caplog.text
    assert caplog.text.count("lr x 0.1") == 1  # not of the drop that ends the run
    with pytest.raises(ConfigError, match=r"schedule.min_lr=0.02 ends the run at once, as lr is 0.02"):
        train(tiny_config("schedule=plateau", "schedule.min_lr=0.02"), "other")


def test_a_drop_of_lr_is_said_below_the_epoch_that_stalled_and_not_after_the_last(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(tiny_config("schedule=plateau", "schedule.patience_epochs=1", "epochs=3"), before=scores(50, 40, 40))
    lines = [message.split()[:2] for message in caplog.messages if re.search("epoch |val  |lr x", message)]
    assert lines[-7:] == [
        ["epoch", "1/3"],
        ["val", "loss"],
        ["epoch", "2/3"],
        ["val", "loss"],
        ["validation", "top-1"],
        ["epoch", "3/3"],
        ["val", "loss"],
    ]


def test_epochs_without_a_validation_count_towards_a_plateau() -> None:
    schedule = Plateau(patience_epochs=3)
    assert [schedule.epoch_ended(top1) is not None for top1 in (50.0, None, None, 50.0, None, None, None)] == [
        False,
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    assert schedule.epoch_ended(60.0) is None
    assert schedule.num_drops == 1


def test_a_run_whose_hours_are_over_saves_and_stops_for_a_scheduler(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    whole = train(tiny_config(), "whole")

    def time_passes(trainer: Trainer) -> None:
        assert trainer.signals.deadline is not None
        if trainer.state.step == 7:
            trainer.signals.deadline = time.monotonic()

    with pytest.raises(Interrupted, match="stopped by max_hours: saved after step 7; the same command") as stopped:
        train(tiny_config("max_hours=2"), "cut", lambda trainer: trainer.after_step.append(time_passes))
    assert stopped.value.exit_code == EXIT_REQUEUE
    assert same(train(tiny_config("max_hours=2"), "cut")["weights"], whole["weights"])
    assert "max_hours" not in json.loads((tmp_path / "cut/config.json").read_text())


def test_hours_count_from_the_start() -> None:
    assert StopSignals().request == 0
    assert StopSignals(max_hours=1).request == 0
    assert StopSignals(max_hours=1e-12).request != 0


@pytest.mark.parametrize(
    "override, words",
    [
        ("validate_every=1.5", "validate_every=1.5 must be a whole number of epochs, or a part of one such as 0.25"),
        ("validate_every=0", "validate_every=0.0 must be above 0"),
        ("early_stopping.patience_epochs=0", "early_stopping.patience_epochs=0"),
        ("early_stopping=5", "early_stopping=5: .*early_stopping.patience_epochs=5"),
        ("max_hours=-1", "max_hours=-1.0"),
    ],
)
def test_a_wrong_setting_of_stopping_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose([override])


def test_all_of_it_together_resumes_to_the_bit(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    config = tiny_config(
        "validate_every=2",
        "early_stopping.patience_epochs=3",
        "schedule=plateau",
        "schedule.patience_epochs=1",
        "schedule.min_lr=1e-9",
        "epochs=5",
    )
    train(config, "whole")
    with pytest.raises(Interrupted):
        train(config, "cut", all_of(stop_at_step(12)))
    train(config, "cut")
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
