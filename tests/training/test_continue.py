"""A run that goes on with another config: nothing is lost, its history is kept, and it resumes bit for bit itself."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.checkpoints import load_checkpoint
from imgcls.config import compose
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError
from imgcls.runs import Interrupted
from imgcls.training import Trainer

from .helpers import (
    EVERYTHING,
    Killed,
    Make,
    Train,
    all_of,
    differences,
    kill_at_step,
    same,
    stop_at_step,
)

ON = "continue_run=true"
# lr does not depend on how many epochs there are, so that a longer run begins as a shorter one does.
STEADY = ("schedule=plateau", "schedule.patience_epochs=1", "logger=tensorboard", *EVERYTHING)


def history(path: Path) -> list[dict]:
    return json.loads((path / "config.json").read_text()).get("changes", [])


def test_a_finished_run_that_is_trained_longer_equals_the_long_one_to_the_bit(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    whole = train(tiny_config(*STEADY, "epochs=3"), "whole")
    train(tiny_config(*STEADY, "epochs=2"))
    longer = train(tiny_config(*STEADY, "epochs=3", ON))
    assert same(whole["weights"], longer["weights"])
    assert (whole["steps"], whole["val_top1"]) == (longer["steps"], longer["val_top1"])
    assert differences(tmp_path / "whole", tmp_path / "run") == []
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "run/metrics.csv").read_bytes()
    assert history(tmp_path / "run") == [{"after_step": 10, "after_epoch": 2, "changed": {"epochs": [2, 3]}}]


def test_each_change_is_kept_and_the_newest_config_is_that_of_the_run(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(tiny_config("epochs=1", "schedule=constant"))
    train(tiny_config("epochs=2", "schedule=constant", "optimizer.lr=0.01", ON))
    assert "changed  epochs 2 (was 1), optimizer.lr 0.01 (was 0.02)" in caplog.text
    assert "the next step has lr 0.01" in caplog.text
    train(tiny_config("epochs=3", "schedule=constant", "optimizer.lr=0.01", ON))
    assert [list(change["changed"]) for change in history(tmp_path / "run")] == [["epochs", "optimizer.lr"], ["epochs"]]
    assert json.loads((tmp_path / "run/config.json").read_text())["epochs"] == 3
    saved = load_checkpoint(tmp_path / "run/last.pt")
    assert saved["config"]["epochs"] == 3
    assert saved["optimizer"]["param_groups"][0]["lr"] == 0.01


@pytest.mark.parametrize("step", [7, pytest.param(10, marks=pytest.mark.e2e)])
@pytest.mark.parametrize("killed_at", [8, pytest.param(11, marks=pytest.mark.e2e)])
def test_a_continued_run_that_is_killed_resumes_by_the_same_command_to_the_bit(
    step: int, killed_at: int, tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    before = tiny_config(*STEADY, "checkpoint.keep=2")
    changed = (*STEADY, "epochs=4", "optimizer.lr=0.01", "head_lr_factor=3", "decay_norms_and_biases=false", ON)
    for name in ("whole", "cut"):
        with pytest.raises(Interrupted):
            train(before, name, stop_at_step(step))
    whole = train(tiny_config(*changed), "whole")
    with pytest.raises(Killed):  # before its first checkpoint, or after it
        train(tiny_config(*changed), "cut", kill_at_step(max(step, killed_at)))
    # The same command without continue_run: the run in the directory has this config by now.
    resumed = train(tiny_config(*changed[:-1]), "cut")
    assert same(whole["weights"], resumed["weights"])
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    assert history(tmp_path / "whole") == history(tmp_path / "cut") != []


def test_the_optimizers_state_follows_its_parameter_into_other_groups(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    def momenta(trainer: Trainer) -> dict[str, object]:
        return {
            name: trainer.optimizer.state[parameter]["momentum_buffer"].clone()
            for name, parameter in trainer.model.named_parameters()
        }

    before: list[dict] = []
    after: list[dict] = []
    train(
        tiny_config("epochs=1"),
        before=lambda trainer: trainer.before_validation.append(lambda trainer: before.append(momenta(trainer))),
    )
    groups = ("head_lr_factor=3", "decay_norms_and_biases=false")
    train(tiny_config("epochs=2", *groups, ON), before=lambda trainer: after.append(momenta(trainer)))
    assert same(before[0], after[0])


def test_a_rollback_to_before_the_change_keeps_what_was_changed(tiny_config: Make, train: Train) -> None:
    from .helpers import poison

    keep = ("on_divergence=rollback", "checkpoint.keep=3", "schedule=constant")
    train(tiny_config("epochs=1", *keep))
    lrs: list[float] = []

    def note(trainer: Trainer) -> None:
        lrs.append(trainer.optimizer.param_groups[0]["lr"])

    train(
        tiny_config("epochs=2", "optimizer.lr=0.004", *keep, ON),
        before=all_of(poison(6, rollbacks=1), lambda trainer: trainer.after_step.append(note)),
    )
    assert lrs[-1] == pytest.approx(0.004 * 0.5)


def test_an_average_begun_later_starts_from_the_weights_and_one_given_up_is_gone(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    first = train(tiny_config("epochs=1"))
    started: list[dict] = []

    def note(trainer: Trainer) -> None:
        assert trainer.average is not None
        started.append({key: value.clone() for key, value in trainer.average.model.state_dict().items()})

    train(tiny_config("epochs=2", "ema_decay=0.9", ON), before=note)
    assert same(first["weights"], started[0])
    assert load_checkpoint(tmp_path / "run/last.pt")["average"] is not None
    train(tiny_config("epochs=3", ON))
    assert load_checkpoint(tmp_path / "run/last.pt")["average"] is None


def test_another_batch_size_goes_on_between_epochs_and_not_within_one(tiny_config: Make, train: Train) -> None:
    with pytest.raises(Interrupted):
        train(tiny_config(), before=stop_at_step(7))
    with pytest.raises(ConfigError, match=r"batch_size=6: .* after 2 steps of epoch 2.*epochs=2 continue_run=true"):
        train(tiny_config("batch_size=6", ON))
    train(tiny_config("epochs=2", ON))
    sizes: list[int] = []

    def note(trainer: Trainer) -> None:
        trainer.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))

    assert train(tiny_config("epochs=3", "batch_size=6", ON), before=note)["steps"] == 20
    assert set(sizes[:10]) == {6}


@pytest.mark.parametrize(
    "override, words",
    [
        ("seed=3", r"cannot go on with another seed \(seed: 0 there, 3 now\).*weights=.*best\.pt"),
        ("model.activation=tanh", r"another model\.activation"),
        ("optimizer=adamw", r"optimizer\._target_: torch.optim.SGD there, torch.optim.AdamW now"),
        ("epochs=1", r"epochs=1: the run has trained 2 epochs already; give more"),
    ],
)
def test_what_cannot_change_is_refused_and_the_run_stays_as_it_is(
    override: str, words: str, tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    train(tiny_config("epochs=2"))
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with pytest.raises(ConfigError, match=words):
        train(tiny_config("epochs=3", override, ON))
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_run_of_another_config_is_refused_with_the_way_to_go_on(tiny_config: Make, train: Train) -> None:
    train(tiny_config("epochs=1"))
    with pytest.raises(
        ConfigError, match=r"\(epochs: 1 there, 2 now\); go on with it, changed so \(continue_run=true\)"
    ):
        train(tiny_config("epochs=2"))
    with pytest.raises(ConfigError) as error:
        train(tiny_config("epochs=2", "seed=1"))
    assert "continue_run" not in str(error.value)  # that way is none with another seed


def test_nothing_to_go_on_with_is_an_error_that_names_the_runs_beside_it(
    tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    train(tiny_config("epochs=1"), "epochs-1")
    with pytest.raises(ConfigError, match=r"epochs-2 holds no run to go on with; name the run .*: .* are epochs-1$"):
        train(tiny_config("epochs=2", ON), "epochs-2")
    assert not (tmp_path / "epochs-2").exists()
    with pytest.raises(ConfigError, match="leave one of them out"):
        tiny_config(ON, "overwrite=true")
    with pytest.raises(ConfigError, match=r"resume: .*did you mean continue_run"):
        compose(["resume=true"])


def test_what_changes_no_result_is_no_other_config(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    whole = train(tiny_config(), "whole")
    with pytest.raises(Interrupted):
        train(tiny_config(), before=stop_at_step(7))
    free = ("data.on_bad_image=skip", "data.num_threads=1", "log_every_steps=3", "device=cpu", "trust=[yaml]")
    resumed = train(tiny_config(*free))
    assert same(whole["weights"], resumed["weights"])
    assert history(tmp_path / "run") == []


def test_a_run_goes_on_in_the_precision_of_another_device_and_says_so(
    tiny_config: Make, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from imgcls.checkpoints import save_checkpoint

    caplog.set_level("INFO")
    with pytest.raises(Interrupted):
        train(tiny_config(), before=stop_at_step(7))
    file = tmp_path / "run/last.pt"
    save_checkpoint(load_checkpoint(file) | {"precision": "float16", "scaler": {"scale": 1024.0}}, file)
    assert train(tiny_config())["steps"] == 15
    assert "changed  precision fp32 (was float16)" in caplog.text


@pytest.mark.parametrize("how", ["renamed", "moved", "copied"])
def test_a_runs_directory_may_be_renamed_moved_and_copied(
    how: str, tiny_config: Make, train: Train, tmp_path: Path
) -> None:
    config = tiny_config("logger=tensorboard", *EVERYTHING)
    whole = train(config, "whole")
    with pytest.raises(Interrupted):
        train(config, "cut", stop_at_step(7))
    new = "other" if how != "moved" else "deep/inside/other"
    (tmp_path / new).parent.mkdir(parents=True, exist_ok=True)
    if how == "copied":
        shutil.copytree(tmp_path / "cut", tmp_path / new)
    else:
        (tmp_path / "cut").rename(tmp_path / new)
    resumed = train(config, new)
    assert same(whole["weights"], resumed["weights"])
    assert differences(tmp_path / "whole", tmp_path / new) == []
    if how == "copied":
        assert same(train(config, "cut")["weights"], whole["weights"])


def test_a_longer_run_of_another_name_says_which_run_it_could_go_on_with(
    tiny_config: Make, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(tiny_config("epochs=1"), "epochs-1")
    train(tiny_config("epochs=2"), "epochs-2")
    assert "name=epochs-1 continue_run=true goes on with the same run of 1 epochs instead" in caplog.text
    caplog.clear()
    train(tiny_config("epochs=1", "seed=1"), "other")
    train(tiny_config("epochs=1", "optimizer.lr=0.01"), "another")
    assert "shorter" not in caplog.text


def test_a_damaged_run_beside_a_new_one_does_not_stop_it(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    train(tiny_config("epochs=1"), "damaged")
    (tmp_path / "damaged/config.json").write_text("{")
    assert train(tiny_config("epochs=1", "seed=1"), "new")["epochs"] == 1


@pytest.mark.e2e
def test_the_command_line_names_the_way_and_takes_it(tiny_folder: Path, tmp_path: Path) -> None:
    words = ["model=lenet5", "data=folder", f"data.root={tiny_folder}", "image_size=32", "batch_size=12", "name=e"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(CONF_DIR.parent / "train.py"), *words, *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert run("epochs=1").returncode == 0
    refused = run("epochs=2")
    assert refused.returncode == 2
    assert "epochs: 1 there, 2 now" in refused.stderr
    assert "continue_run=true" in refused.stderr
    assert refused.stderr.count("\n") == 1
    longer = run("epochs=2", "continue_run=true")
    assert longer.returncode == 0, longer.stderr
    assert "epoch 2/2" in longer.stdout
    again = run("epochs=2", "continue_run=true")
    assert "this run has finished" in again.stdout
    assert again.returncode == 0
