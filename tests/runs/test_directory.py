"""Run directories: one owner, one config; and the table of several."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.config import compose, consequential
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError
from imgcls.runs import (
    BEST,
    CONFIG,
    LAST,
    LOCK,
    METRICS_FILE,
    PREVIOUS,
    RESULTS,
    RunDirectory,
    TooLowError,
    compare_rows,
    find_runs,
    read_row,
    render,
    require_top1,
    results_table,
    row_of,
)


def results(top1: float, **more: object) -> dict:
    return {
        "val_top1": top1,
        "val_top5": 99.0,
        "val_loss": 0.5,
        "best_epoch": 2,
        "epochs": 3,
        "steps": 30,
        "seconds": 75.0,
    } | more


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "a", {"seed": 1}), pytest.raises(ValueError, match="another process is training"):
        RunDirectory(tmp_path / "a", {"seed": 1})
    RunDirectory(tmp_path / "a", {"seed": 1}).close()


def claimed(path: Path, config: dict, *, saved: bool = True) -> None:
    """A run that began in `path`, and was saved or finished."""
    with RunDirectory(path, config) as run_dir:
        run_dir.claim()
        if saved:
            (path / LAST).write_text("x")


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    claimed(tmp_path, {"seed": 1, "optimizer.lr": 0.1, "x": (1, 2)})
    claimed(tmp_path, {"seed": 1, "optimizer.lr": 0.1, "x": (1, 2)})
    with pytest.raises(
        ValueError, match=r"another config \(optimizer\.lr: 0\.1 there, 0\.2 now.*name=.*overwrite=true"
    ):
        RunDirectory(tmp_path, {"seed": 1, "optimizer.lr": 0.2, "x": (1, 2)})


def test_a_run_of_an_earlier_release_counts_new_settings_as_what_that_release_did(tmp_path: Path) -> None:
    config = consequential(compose([]))
    new = ["data.pillow_draft", "data.memorise", "sync_batch_norm", "head_only_epochs", "trust", "augment.repeats"]
    parts = ("augment.batch.three_augment.", "augment.batch.blur.", "augment.batch.grayscale.")
    earlier = {key: value for key, value in config.items() if key not in new and not key.startswith(parts)}
    assert (earlier["augment.policy_ops"], earlier["augment.policy_magnitude"]) == (2, 9)  # as it was without a policy
    claimed(tmp_path, earlier)
    claimed(tmp_path, config | {"data.pillow_draft": True})  # Pillow's draft was used then
    for key, value, words in (
        ("data.pillow_draft", False, r"\(data\.pillow_draft: True there, False now\)"),
        ("augment.batch.blur.probability", 0.5, r"augment\.batch\.blur\.probability: 0\.0 there, 0\.5 now"),
        ("augment.repeats", 3, r"augment\.repeats: 1 there, 3 now"),
        ("sync_batch_norm", True, r"sync_batch_norm: False there, True now"),
        ("optimizer.nesterov", True, r"optimizer\.nesterov: .* there, True now"),
    ):
        (tmp_path / CONFIG).write_text(json.dumps(earlier))
        with pytest.raises(ValueError, match=words):
            RunDirectory(tmp_path, config | {"data.pillow_draft": True, key: value})


def test_the_checkpoint_before_the_last_goes_once_the_results_are_there(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, {"seed": 1}) as run_dir:
        run_dir.claim()
        for name in (LAST, PREVIOUS, BEST, "epoch_0002.pt"):
            (tmp_path / name).write_text("x")
        blocked = tmp_path / f"{RESULTS}.partial"  # where the results are written, a directory: that fails
        blocked.mkdir()
        with pytest.raises(OSError, match="results"):
            run_dir.finish(results(50.0))
        assert (tmp_path / PREVIOUS).exists()
        blocked.rmdir()
        run_dir.finish(results(50.0))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {LAST, BEST, "epoch_0002.pt", RESULTS, CONFIG, LOCK}


def test_a_directory_in_which_nothing_was_saved_is_free(tmp_path: Path) -> None:
    claimed(tmp_path, {"seed": 1}, saved=False)
    claimed(tmp_path, {"seed": 2})
    with pytest.raises(ValueError, match="seed: 2 there, 1 now"):
        RunDirectory(tmp_path, {"seed": 1})


def test_overwrite_throws_away_the_run_and_nothing_else_once_it_is_claimed(tmp_path: Path) -> None:
    claimed(tmp_path, {"seed": 1})
    with RunDirectory(tmp_path, {"seed": 1}) as run_dir:
        run_dir.finish(results(50))
    for name in (METRICS_FILE, "events.out.tfevents.1", "notes.txt"):
        (tmp_path / name).write_text("x")
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    with RunDirectory(tmp_path, {"seed": 2}, overwrite=True) as run_dir:
        assert run_dir.results() is None
        assert not run_dir.holds_run
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before
        run_dir.claim()
        assert json.loads((tmp_path / CONFIG).read_text()) == {"seed": 2}
    assert {file.name for file in tmp_path.iterdir()} == {"notes.txt", CONFIG, LOCK}


def overwrites(path: Path) -> bool:
    """Begin a run with overwrite=true and save once; return True if it deleted the run that was there."""
    with RunDirectory(path, {"seed": 1}, overwrite=True) as run_dir:
        wanted = run_dir.overwrite
        run_dir.claim()
    (path / LAST).write_text("x")
    return wanted


def test_a_job_put_back_into_slurms_queue_goes_on_where_it_overwrote(tmp_path: Path, monkeypatch) -> None:
    claimed(tmp_path, {"seed": 1})
    monkeypatch.setenv("SLURM_JOB_ID", "71")

    assert overwrites(tmp_path)
    assert overwrites(tmp_path)  # typed again in an interactive job
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not overwrites(tmp_path)
    assert (tmp_path / LAST).exists()
    monkeypatch.setenv("SLURM_JOB_ID", "72")
    assert overwrites(tmp_path)


def test_workers_that_torchrun_restarts_go_on_where_they_overwrote(tmp_path: Path, monkeypatch) -> None:
    claimed(tmp_path, {"seed": 1})
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")

    assert overwrites(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not overwrites(tmp_path)
    # Another torchrun, whose first workers died before they began.
    parent = os.getppid()
    monkeypatch.setattr(os, "getppid", lambda: parent + 1)
    assert overwrites(tmp_path)


def test_a_directory_on_a_filesystem_without_locks_is_run_when_a_setting_says_so(tmp_path: Path, monkeypatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ValueError, match="lock=false"):
        RunDirectory(tmp_path, {})
    with RunDirectory(tmp_path, {}, lock=False) as run_dir:
        run_dir.claim()
        run_dir.finish(results(50))
    assert RunDirectory(tmp_path, {}, look_only=True).results() == results(50)


def test_best_weights_that_are_gone_are_not_named_as_such(tmp_path: Path) -> None:
    assert "none: " in results_table(results(50), tmp_path)
    assert f"{BEST} is gone" in results_table(results(50), tmp_path)
    (tmp_path / BEST).touch()
    assert "gone" not in results_table(results(50), tmp_path)


@pytest.mark.parametrize("name", [CONFIG, RESULTS])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, name: str) -> None:
    claimed(tmp_path, {"seed": 1})
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=rf"{name} is damaged .*overwrite=true"):
        RunDirectory(tmp_path, {"seed": 1}).results()
    RunDirectory(tmp_path, {"seed": 1}, overwrite=True).close()


def test_a_directory_in_which_nothing_was_begun_is_removed(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "runs/a", {}).close()
    assert not (tmp_path / "runs/a").exists()
    with RunDirectory(tmp_path / "runs/b", {}) as run_dir:
        run_dir.claim()
    assert sorted(file.name for file in (tmp_path / "runs/b").iterdir()) == ["config.json", "lock"]


def test_a_command_that_is_refused_before_its_run_begins_leaves_no_log(tmp_path: Path) -> None:
    for error, stays in ((ConfigError("a mistake"), False), (RuntimeError("a bug"), True)):
        path = tmp_path / type(error).__name__
        with contextlib.suppress(type(error)), RunDirectory(path, {"seed": 0}):
            (path / "train.log").write_text("model resnet18\n")
            raise error
        assert path.exists() == stays


def test_a_directory_that_may_not_be_written_is_named_with_the_way_out(tmp_path: Path, monkeypatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\).*hydra.run.dir="):
        RunDirectory(tmp_path / "a", {})


def test_a_filesystem_without_locks_is_refused_in_words(tmp_path: Path, monkeypatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ValueError, match=r"cannot lock files \(Function not implemented\).*hydra.run.dir="):
        RunDirectory(tmp_path, {})


def test_the_table_ranks_runs_and_marks_the_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, top1 in (("low", 10.0), ("high", 90.0)):
        with RunDirectory(Path("runs") / name, {"epochs": 3}) as run_dir:
            run_dir.claim()
            run_dir.finish(results(top1))
    claimed(Path("runs/half"), {"epochs": 3}, saved=False)
    header = "epoch,step,lr,train/loss,train/top1,train/top5,val/loss,val/top1,val/top5\n"
    rows = "1,5,0.1,2,20,60,,,\n1,10,0.1,2,20,60,1.5,40.0,80\n2,20,0.1,2,20,60,1.5,30.0,80\n"
    (tmp_path / "runs/half" / METRICS_FILE).write_text(header + rows)
    claimed(Path("runs/none"), {"epochs": 3}, saved=False)
    RunDirectory(Path("runs/refused"), {"epochs": 3}).close()
    rows = [row_of(path) for path in [*find_runs([Path("runs")]), Path("runs/refused")]]
    lines = render(compare_rows(rows)).splitlines()[3:]
    assert [line.split()[0] for line in lines] == ["runs/high", "runs/half", "runs/low", "runs/none", "runs/refused"]
    assert lines[4].endswith("not begun")
    assert "40.00" in lines[1]
    assert "after epoch 2" in lines[1]
    assert "finished" in lines[0]


def test_runs_that_differ_in_their_seeds_alone_have_a_mean(tmp_path: Path) -> None:
    for name, config, top1 in (
        ("a1", {"seed": 1, "lr": 1}, 50.0),
        ("a2", {"seed": 2, "lr": 1}, 60.0),
        ("b1", {"seed": 1, "lr": 2}, 70.0),
        ("b1again", {"seed": 1, "lr": 2}, 71.0),
    ):
        with RunDirectory(tmp_path / name, config) as run_dir:
            run_dir.claim()
            run_dir.finish(results(top1))
    claimed(tmp_path / "a3", {"seed": 3, "lr": 1})
    script = [sys.executable, "-X", "importtime", str(CONF_DIR.parent / "scripts/compare.py"), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "over" in line]
    # The standard error of 50 and 60 is 5, and t of one degree of freedom 12.706.
    assert line == f"{tmp_path}/a1 and 1 more, over 2 seeds: top-1 55.00 +- 63.53 % (95 % interval)"
    assert "| torch" not in done.stderr.replace("|   ", "| ")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_runs([tmp_path / "nowhere"])


def test_a_run_of_a_release_with_fewer_metrics_is_shown(tmp_path: Path) -> None:
    older = results(91.5)
    del older["val_top5"]
    assert "top-5" not in results_table(older, tmp_path)
    with RunDirectory(tmp_path / "a", {}) as run_dir:
        run_dir.claim()
        run_dir.finish(older)
    row = read_row(tmp_path / "a")
    assert (row.state, row.scores["top1"], row.scores["top5"]) == ("finished", 91.5, None)


def test_a_run_below_its_bar_fails(tmp_path: Path) -> None:
    require_top1(None, results(1))
    require_top1(50, results(50))
    for low in (49.9, float("nan")):
        with pytest.raises(TooLowError, match="min_val_top1=50") as error:
            require_top1(50, results(low))
        assert error.value.exit_code == 1


def test_the_summary_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a" / BEST).touch()
    text = results_table(results(91.5, val_top5=None), tmp_path / "runs/a")
    for word in ("91.50 %", "2 of 3", "runs/a/best.pt", "tensorboard --logdir runs/a", "1:15", "fewer than 6 classes"):
        assert word in text


def test_a_finished_runs_results_are_read_back(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, {}) as run_dir:
        run_dir.finish(results(50))
        assert run_dir.results() == json.loads((tmp_path / RESULTS).read_text()) == results(50)


def test_the_table_says_that_nothing_was_learnt(tmp_path: Path) -> None:
    of_ten_classes = {"data": {"classes": 10}}
    assert "it learnt nothing      guessing gives 10.00 %" in results_table(results(10.4) | of_ten_classes, tmp_path)
    assert "learnt nothing" not in results_table(results(15.4) | of_ten_classes, tmp_path)
    assert "learnt nothing" not in results_table(results(10.4) | {"data": {}}, tmp_path)
