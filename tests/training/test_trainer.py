"""The loop: it learns, counts rightly, accumulates rightly, and goes on where it stopped, bit for bit."""

import csv
import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from imgcls import distributed
from imgcls.checkpoints import (
    CheckpointError,
    checksum,
    compare_runs,
    file,
    list_differences,
    load_checkpoint,
    save_checkpoint,
)
from imgcls.config import Config, compose
from imgcls.data.decoding import BadImageError
from imgcls.device import set_determinism
from imgcls.errors import EXIT_REQUEUE, ConfigError
from imgcls.metrics import Scores
from imgcls.runs import DiskError, Interrupted
from imgcls.training import (
    DivergedError,
    OutOfMemory,
    State,
    StuckError,
    Trainer,
    factory,
    out_of_memory_text,
)

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
    last, other = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    for each in (last, other):
        del each["events"], each["state"]["seconds"]
    assert checksum(last) == checksum(other)


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
            for tag in ("train/loss", "val/top1", "train/lr")
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
    saved = load_checkpoint(tmp_path / "run/last.pt")
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
    assert load_checkpoint(tmp_path / "run/best.pt")["epoch"] == results["best_epoch"]


def test_the_average_of_the_weights_is_what_is_validated_and_kept(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    train(tiny_config("ema_decay=0.99", "epochs=1"))
    best, last = (load_checkpoint(tmp_path / "run" / name) for name in ("best.pt", "last.pt"))
    assert same(best["model"], last["average"])
    assert not same(best["model"], last["model"])


def count_steps(trainer: Trainer) -> list[int]:
    """Note in the returned list every optimizer step that the trainer takes."""
    taken: list[int] = []
    step = trainer.train_step

    def train_step(batch):
        taken.append(trainer.state.step)
        return step(batch)

    trainer.train_step = train_step
    return taken


def test_a_run_stopped_in_validation_resumes_there_and_trains_nothing_again(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    config = tiny_config("epochs=1", "batch_size=6")

    def stop_in_validation(trainer: Trainer) -> None:
        validate = trainer.validate

        def stop_then_validate():
            trainer.signals.received = signal.SIGUSR1
            return validate()

        trainer.validate = stop_then_validate

    steps: list[list[int]] = []
    whole = train(config, "whole")
    with pytest.raises(Interrupted, match="stopped by SIGUSR1: saved after step 10"):
        train(config, "cut", stop_in_validation)
    assert not (tmp_path / "cut/best.pt").exists()
    resumed = train(config, "cut", lambda trainer: steps.append(count_steps(trainer)))
    assert steps == [[]]
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


def test_a_kill_between_the_best_and_the_last_checkpoint_loses_neither(
    tiny_config: Make, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    config = tiny_config("epochs=2")
    train(config, "whole")
    save = save_checkpoint

    def killed_after_best(content: dict[str, Any], path: Path, **more: Any) -> None:
        if path.name == "last.pt":
            raise Killed
        save(content, path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(file, "save", killed_after_best)
        with pytest.raises(Killed):
            train(config, "cut")
    train(config, "cut")
    whole, cut = (load_checkpoint(tmp_path / name / "best.pt") for name in ("whole", "cut"))
    assert list_differences(whole, cut) == []


def poison(*steps: int, rollbacks: int = 100) -> Callable[[Trainer], None]:
    """Ruin a weight before each of these steps, until the run has gone back so many times."""

    def before(trainer: Trainer) -> None:
        step = trainer.train_step

        def train_step(batch):
            if trainer.state.step in steps and trainer.state.rollbacks < rollbacks:
                with torch.no_grad():
                    next(trainer.model.parameters()).fill_(float("nan"))
            return step(batch)

        trainer.train_step = train_step

    return before


def test_rollback_goes_back_to_the_start_of_the_epoch_with_a_smaller_lr(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("on_divergence=rollback", "divergence.lr_factor=0.1", "schedule=constant", *EVERYTHING)
    results = train(config, before=poison(8, rollbacks=1))
    assert results["steps"] == 15
    assert (
        "the loss at step 9 (epoch 2) is not finite: going back to step 5 with lr x 0.1 (1 of 3 times)" in caplog.text
    )
    told = [(int(row["step"]), float(row["lr"])) for row in rows(tmp_path / "run")]
    assert [step for step, _ in told] == [2, 4, 5, 6, 8, 10, 10, 12, 14, 15]
    assert all(lr == pytest.approx(0.02 if step <= 5 else 0.002) for step, lr in told)
    assert {file.name for file in (tmp_path / "run").glob("epoch_*")} == {"epoch_0003.pt"}


def test_a_run_that_is_told_to_roll_back_only_later_goes_back_to_where_it_was_taken_up(
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


@pytest.mark.parametrize("step", [6, 8, 9, 12])
def test_a_run_that_went_back_and_was_stopped_equals_the_one_that_only_went_back(
    step: int, tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    plateau = ("schedule=plateau", "schedule.patience_epochs=1")
    config = tiny_config("on_divergence=rollback", *plateau, "tensorboard=true", *EVERYTHING)
    whole = train(config, "whole", poison(8, rollbacks=1))

    def poison_and_stop(trainer: Trainer) -> None:
        poison(8, rollbacks=1)(trainer)
        stop_at_step(step)(trainer)

    with pytest.raises(Interrupted):
        train(config, "cut", poison_and_stop)
    resumed = train(config, "cut", poison(8, rollbacks=1))
    assert same(whole["weights"], resumed["weights"])
    assert [verdict for verdict in compare_runs(tmp_path / "whole", tmp_path / "cut") if verdict.differences] == []


def test_a_run_killed_after_it_went_back_equals_the_one_that_only_went_back(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def save_then_poison_then_kill(trainer: Trainer) -> None:
        poison(8, rollbacks=1)(trainer)
        step, heed = trainer.train_step, trainer.heed_signals

        def train_step(batch):
            if trainer.state.rollbacks == 1 and trainer.state.step == 9:
                raise Killed
            return step(batch)

        trainer.train_step = train_step
        # The newest checkpoint is of the way that led to the divergence; metrics.csv soon tells of another.
        trainer.heed_signals = lambda *, save=False: heed(
            save=trainer.state.rollbacks == 0 and trainer.state.step in (7, 8)
        )

    config = tiny_config("on_divergence=rollback", "log_every_steps=1")
    train(config, "whole", poison(8, rollbacks=1))
    with pytest.raises(Killed):
        train(config, "cut", save_then_poison_then_kill)
    assert load_checkpoint(tmp_path / "cut/last.pt")["state"]["rollbacks"] == 1
    assert not (tmp_path / "cut/previous.pt").exists()
    train(config, "cut", poison(8, rollbacks=1))
    assert [verdict for verdict in compare_runs(tmp_path / "whole", tmp_path / "cut") if verdict.differences] == []


def test_a_run_goes_back_only_so_often(tiny_config: Make, train: Train) -> None:
    config = tiny_config("on_divergence=rollback", "divergence.max_rollbacks=2")
    with pytest.raises(
        DivergedError, match=r"step 9 \(epoch 2\) is not finite after going back 2 times.*optimizer\.lr"
    ):
        train(config, before=poison(8))


def test_weights_that_the_last_step_ruined_are_not_saved(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    def ruin(trainer: Trainer) -> None:
        step, heed = trainer.train_step, trainer.heed_signals

        def train_step(batch):
            result = step(batch)
            if trainer.state.step == 6:
                with torch.no_grad():
                    next(trainer.model.parameters()).fill_(float("inf"))
            return result

        trainer.train_step = train_step
        trainer.heed_signals = lambda *, save=False: heed(save=True)

    with pytest.raises(DivergedError, match="the weights after step 7 are not finite"):
        train(tiny_config(), before=ruin)
    saved = load_checkpoint(tmp_path / "run/last.pt")
    assert saved["state"]["step"] == 6
    assert all(value.isfinite().all() for value in saved["model"].values())


def ignorant(trainer: Trainer) -> None:
    """Make a network that gives all classes alike."""
    for parameter in trainer.model.parameters():
        torch.nn.init.zeros_(parameter)


def test_a_loss_that_stays_where_guessing_is_is_told_once_with_what_to_try(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("optimizer.lr=0", "divergence.stuck_epochs=1", "log_every_steps=1", "label_smoothing=0.1")
    train(config, before=ignorant)
    told = [record.getMessage() for record in caplog.records if "has stayed at" in record.getMessage()]
    assert len(told) == 1
    assert "stayed at 1.099 for 5 steps" in told[0]
    assert "optimizer.lr" in told[0]


def test_a_stuck_loss_stops_the_run_where_that_is_asked_for(tiny_config: Make, train: Train) -> None:
    config = tiny_config("optimizer.lr=0", "log_every_steps=1", "divergence.stuck_steps=4", "divergence.on_stuck=stop")
    with pytest.raises(StuckError, match=r"stayed at 1\.099 for 4 steps.*divergence\.on_stuck=warn"):
        train(config, before=ignorant)


def test_one_reading_at_chance_is_not_called_stuck(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    for log_every, told in ((6, False), (5, True)):
        caplog.clear()
        config = tiny_config("optimizer.lr=0", "divergence.stuck_steps=2", f"log_every_steps={log_every}")
        train(config, str(log_every), before=ignorant)
        assert ("has stayed" in caplog.text) == told


def test_a_loss_that_falls_is_not_called_stuck(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny_config("epochs=6", "divergence.stuck_epochs=4", "log_every_steps=1"))
    assert "has stayed" not in caplog.text


def memory_for(images: int) -> Callable[[Trainer], None]:
    """Make a device that runs out of memory with more images at a time."""

    def before(trainer: Trainer) -> None:
        forward = trainer.train_model

        class Small(torch.nn.Module):
            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                if len(inputs) > images:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                return forward(inputs)

        trainer.train_model = Small()

    return before


def test_out_of_memory_names_the_batch_and_what_fits(tiny_config: Make, train: Train) -> None:
    with pytest.raises(OutOfMemory, match=r"batch_size=12, 12 images .* 12 at a time\. microbatch=3 fits, .*=auto"):
        train(tiny_config(), before=memory_for(5))


def test_out_of_memory_with_a_single_image_says_that_no_microbatch_helps(tiny_config: Make, train: Train) -> None:
    for number, setting in enumerate(("microbatch=null", "microbatch=auto")):
        with pytest.raises(OutOfMemory, match="Not even one image at a time fits: use a smaller image_size"):
            train(tiny_config(setting), str(number), before=memory_for(0))


def test_out_of_memory_that_does_not_come_again_says_so(tiny_config: Make, train: Train) -> None:
    def once(trainer: Trainer) -> None:
        def validate():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        trainer.validate = validate

    with pytest.raises(OutOfMemory, match="or it ran out in validation; try microbatch=6"):
        train(tiny_config(), before=once)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_microbatch_auto_finds_what_fits_and_leaves_everything_else_as_it_was(
    batch_norm: bool, tiny_config: Make, tiny_folder: Path, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def small(microbatch: str, name: str, *, stop: int | None = None) -> dict[str, Any]:
        def before(trainer: Trainer) -> None:
            memory_for(5)(trainer)
            if stop:
                stop_at_step(stop)(trainer)

        overrides = [f"microbatch={microbatch}", "max_steps=4", "ema_decay=0.9"]
        resnet = ["model=resnet18", "data=folder", f"data.root={tiny_folder}", "image_size=32", "batch_size=12"]
        config = compose([*resnet, *overrides, "tensorboard=false"]) if batch_norm else tiny_config(*overrides)
        return train(config, name, before)

    auto = small("auto", "auto")
    assert "microbatch=auto: 3 images at a time fit" in caplog.text
    told = small("3", "told")
    assert same(auto["weights"], told["weights"])
    with pytest.raises(Interrupted):
        small("auto", "cut", stop=2)
    assert same(small("auto", "cut")["weights"], told["weights"])


def test_running_out_in_the_optimizer_with_loss_scaling_and_clipping_is_told_too(
    tiny_config: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, enabled=True))

    def once(trainer: Trainer) -> None:
        step, failures = trainer.optimizer.step, [torch.cuda.OutOfMemoryError("CUDA out of memory")]

        def run_out(*arguments: Any, **more: Any) -> Any:
            if failures:
                raise failures.pop()
            return step(*arguments, **more)

        trainer.optimizer.step = run_out  # type: ignore[method-assign]

    with pytest.raises(OutOfMemory, match="The same fits now that the memory is free again"):
        train(tiny_config("clip_grad_norm=1"), "told", once)
    assert train(tiny_config("clip_grad_norm=1", "microbatch=auto"), "auto", once)["steps"] == 15


def test_ranks_that_ran_out_are_told_a_guess_as_such() -> None:
    sizes = {"batch_size": 24, "local_size": 12, "fits": None}
    cpu = torch.device("cpu")
    assert "microbatch=6 may fit" in out_of_memory_text(cpu, microbatch=12, tried=False, **sizes)
    assert "Not even one image" in out_of_memory_text(cpu, microbatch=1, tried=False, **sizes)


def test_validation_too_takes_no_more_images_at_a_time_than_the_microbatch(tiny_config: Make, train: Train) -> None:
    sizes: list[int] = []

    def note(trainer: Trainer) -> None:
        trainer.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))

    parts = train(tiny_config("max_steps=1", "microbatch=5"), "parts", note)
    assert sizes == [4, 4, 4, 5, 5, 2, 3]  # 12 images in equal parts; 12 and 3 to validate
    assert parts["val_loss"] == pytest.approx(train(tiny_config("max_steps=1"), "whole")["val_loss"], rel=1e-5)


def test_the_newest_epochs_are_kept_and_each_can_be_gone_on_from(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
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
    for name in ("last.pt", "previous.pt", "epoch_0003.pt"):
        (tmp_path / "run" / name).write_bytes(b"torn")
    assert same(train(config)["weights"], whole["weights"])
    assert "going on after step 10, epoch 2" in caplog.text
    assert (tmp_path / "run/last.pt.damaged").exists()


def test_the_best_epoch_is_chosen_by_the_metric_asked_for(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    results = train(tiny_config("epochs=5", "checkpoint.best_metric=loss"))
    losses = {int(row["epoch"]): float(row["val/loss"]) for row in rows(tmp_path / "run") if row["val/loss"]}
    assert results["best_epoch"] == min(losses, key=losses.__getitem__)
    with pytest.raises(ConfigError, match=r"best_metric=top5, but of 3 classes.*top1 or loss"):
        train(tiny_config("checkpoint.best_metric=top5"), "other")


def test_top5_and_loss_beat_the_best_so_far_by_their_own_measure() -> None:
    state = State(best_top1=50, best_top5=80, best_loss=1.0)
    val = Scores(loss=0.9, top1=40, top5=85, num_images=10)
    assert state.better(val, "loss")
    assert state.better(val, "top5")
    assert not state.better(val, "top1")
    assert not state.better(Scores(1.0, 50, 80, 10), "loss")
    assert State().better(val, "top5")


def test_a_disk_that_takes_no_more_ends_the_run_by_name_and_leaves_the_old_checkpoint(
    tiny_config: Make, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, sync = tiny_config(), os.fsync

    def full(descriptor: int) -> None:
        if (tmp_path / "run/best.pt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match=r"run\S*: No space left.*again") as error:
            train(config)
    assert error.value.exit_code == 1
    assert train(config)["steps"] == 15


def test_the_loaders_batches_are_closed_when_an_epoch_is_left_early(tiny_config: Make, train: Train) -> None:
    left: list[str] = []
    held = []  # as a traceback would hold it

    def watch(trainer: Trainer) -> None:
        epoch = trainer.train_loader.epoch

        def watched(*arguments: Any, **more: Any):
            try:
                yield from epoch(*arguments, **more)
            finally:
                left.append("closed")

        def hold(*arguments: Any, **more: Any):
            held.append(watched(*arguments, **more))
            return held[-1]

        trainer.train_loader.epoch = hold
        validate_after_all = trainer.validate

        def validate():
            assert left == ["closed"]
            return validate_after_all()

        trainer.validate = validate

    train(tiny_config("max_steps=2"), before=watch)


@pytest.mark.parametrize(
    "override, words",
    [
        ("microbatch=half", ["microbatch=half", "auto"]),
        ("microbatch=0", ["microbatch=0", "at least 1"]),
        ("microbatch=13", ["microbatch=13", "batch_size=12"]),
        ("checkpoint.keep=-1", ["checkpoint.keep=-1"]),
        ("checkpoint.best_metric=top2", ["checkpoint.best_metric=top2", "did you mean top"]),
        ("on_divergence=rolback", ["on_divergence=rolback", "did you mean rollback?"]),
        ("divergence.on_stuck=stopp", ["divergence.on_stuck=stopp", "did you mean stop?"]),
        ("divergence.lr_factor=2", ["divergence.lr_factor=2", "at most 1"]),
        ("divergence.stuck_epochs=0", ["divergence.stuck_epochs=0", "divergence.on_stuck=ignore"]),
        ("divergence.max_rollbacks=0", ["divergence.max_rollbacks=0"]),
    ],
)
def test_a_wrong_setting_is_refused_with_the_way_out(override: str, words: list[str], tiny_config: Make) -> None:
    with pytest.raises(ConfigError) as error:
        tiny_config(override)
    for word in words:
        assert word in str(error.value)


def test_deterministic_sets_what_cuda_needs_and_says_that_it_costs(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        set_determinism(tiny_config("deterministic=true"), torch.device("cuda"))
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert "costs images per second" in caplog.text
    finally:
        set_determinism(tiny_config(), torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize("step", [3, 7])
def test_dropout_and_loss_scaling_go_on_where_they_were(
    step: int, tiny_config: Make, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler

    def growing(device: str, *, enabled: bool) -> torch.amp.GradScaler:
        del enabled  # on a CPU it is off, having nothing to do
        return scaler(device, enabled=True, init_scale=64.0, growth_interval=4)

    monkeypatch.setattr(torch.amp, "GradScaler", growing)

    def with_dropout(trainer: Trainer) -> None:
        last = [module for module in trainer.model.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.register_forward_pre_hook(
            lambda module, inputs: torch.nn.functional.dropout(inputs[0], 0.5, module.training)
        )

    def with_dropout_stopped(trainer: Trainer) -> None:
        with_dropout(trainer)
        stop_at_step(step)(trainer)

    whole = train(tiny_config(), "whole", with_dropout)
    with pytest.raises(Interrupted):
        train(tiny_config(), "cut", with_dropout_stopped)
    resumed = train(tiny_config(), "cut", with_dropout)
    assert load_checkpoint(tmp_path / "cut/last.pt")["scaler"]["scale"] == 64 * 2**3  # 15 steps, doubled every 4
    assert same(whole["weights"], resumed["weights"])
    assert [verdict for verdict in compare_runs(tmp_path / "whole", tmp_path / "cut") if verdict.differences] == []
    assert not same(whole["weights"], train(tiny_config(), "dry")["weights"])


def test_going_on_in_the_middle_of_an_epoch_decodes_nothing_of_what_came_before(
    tiny_config: Make, train: Train
) -> None:
    read: dict[str, list[int]] = {"first": [], "resumed": []}

    def note(name: str) -> Callable[[Trainer], None]:
        def before(trainer: Trainer) -> None:
            fill = trainer.train_loader._pixels.fill

            def noted(plan, epoch, indices, out):
                read[name] += indices.tolist()
                return fill(plan, epoch, indices, out)

            trainer.train_loader._pixels.fill = noted
            if name == "first":
                stop_at_step(3)(trainer)

        return before

    config = tiny_config("epochs=1", "data.prefetch=1")
    with pytest.raises(Interrupted):
        train(config, before=note("first"))
    train(config, before=note("resumed"))
    assert len(read["resumed"]) == 2 * 12
    assert not set(read["first"][: 3 * 12]) & set(read["resumed"])


def test_a_broken_image_ends_the_run_where_it_stands_and_loses_no_step(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    def break_an_image(trainer: Trainer) -> None:
        epoch = trainer.train_loader.epoch

        def broken(number: int, *, start: int = 0):
            for batch in epoch(number, start=start):
                if trainer.state.step == 7:
                    raise BadImageError("train/red/03.JPEG", "is gone since the folder was listed")
                yield batch

        trainer.train_loader.epoch = broken

    whole = train(tiny_config(), "whole")
    with pytest.raises(BadImageError, match=r"03\.JPEG: is gone"):
        train(tiny_config(), "cut", break_an_image)
    assert load_checkpoint(tmp_path / "cut/last.pt")["state"]["step"] == 7
    assert same(whole["weights"], train(tiny_config(), "cut")["weights"])


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
    told: list[torch.nn.Module] = []
    monkeypatch.setattr(distributed, "broadcast_buffers", told.append)
    trainers: list[Trainer] = []
    train(tiny_config("ema_decay=0.9", "epochs=1"), before=trainers.append)
    assert trainers[0].average is not None
    assert told == [trainers[0].model, trainers[0].average.model]


@pytest.fixture
def other_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny folder with one class called otherwise."""
    copy = tmp_path / "other"
    shutil.copytree(tiny_folder, copy)
    for part in ("train", "val"):
        (copy / part / "red").rename(copy / part / "amber")
    return copy


def test_a_run_is_not_taken_up_on_other_images(tiny_config: Make, train: Train, other_folder: Path) -> None:
    with pytest.raises(Interrupted):
        train(tiny_config(), before=stop_at_step(7))
    with pytest.raises(
        ValueError, match=r"a run of another data set \(checksum: .* there, .* now\).*name=.*overwrite=true"
    ):
        train(tiny_config(f"data.root={other_folder}"))


def test_a_run_is_not_taken_up_in_another_precision(tiny_config: Make, train: Train, monkeypatch) -> None:
    with pytest.raises(Interrupted):
        train(tiny_config(), before=stop_at_step(7))
    monkeypatch.setattr(factory, "autocast_dtype", lambda precision, device: torch.bfloat16)
    with pytest.raises(ValueError, match=r"another precision \(precision: fp32 there, bfloat16 now\)"):
        train(tiny_config())


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


def test_a_run_goes_on_without_the_weights_that_it_started_from(
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


def test_ranks_that_read_different_runs_are_refused(tiny_config: Make, train: Train, monkeypatch) -> None:
    monkeypatch.setattr(distributed, "agree", lambda flag: max(flag, 9))
    with pytest.raises(CheckpointError, match=r"not the same on all ranks.*a disk that all nodes share"):
        train(tiny_config())


def test_skipped_images_are_counted_on_in_a_resumed_run(
    tiny_config: Make, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgcls.data.loading.bad_images.MAX_SHARE", 0.5)
    found: list[int] = []
    told: dict[int, float] = {}

    def skip_a_few(trainer: Trainer) -> None:
        bad = trainer.train_loader.bad_images
        found.extend(bad.share())
        bad.add([3, 5])
        trainer.events.scalars = lambda step, values: told.update({step: values.get("data/bad_images", 0)})
        stop_at_step(7)(trainer)

    with pytest.raises(Interrupted):
        train(tiny_config(), "cut", skip_a_few)
    assert load_checkpoint(tmp_path / "cut/last.pt")["bad_images"] == [3, 5]
    assert (found, told) == ([], {2: 2, 4: 2, 5: 0, 6: 2})  # at 5 the epoch is told, without the loader
    train(tiny_config(), "cut", skip_a_few)
    assert found == [3, 5]
    assert told[14] == 2


@pytest.mark.parametrize("part", ["train", "val"])
def test_images_that_another_rank_skipped_count_against_the_limit(part: str, tiny_config: Make, train: Train) -> None:
    def skip_one(trainer: Trainer) -> None:
        loader = trainer.train_loader if part == "train" else trainer.val_loader
        loader.bad_images.add([3])  # as `share` does; of 60 and 15, one is too many

    with pytest.raises(ValueError, match=r"1 of (60|15) images are bad, more than 1% may be skipped"):
        train(tiny_config(), "run", skip_one)
