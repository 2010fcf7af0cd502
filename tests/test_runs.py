"""Run directories: one owner, one config; and the table of several."""

import json
from pathlib import Path

import pytest

from imgcls import runs
from imgcls.runs import RunDirectory


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


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    RunDirectory(tmp_path, {"seed": 1, "optimizer.lr": 0.1, "x": (1, 2)}).close()
    RunDirectory(tmp_path, {"seed": 1, "optimizer.lr": 0.1, "x": (1, 2)}).close()
    with pytest.raises(ValueError, match=r"optimizer\.lr: 0\.1 there, 0\.2 now.*name=.*overwrite=true"):
        RunDirectory(tmp_path, {"seed": 1, "optimizer.lr": 0.2, "x": (1, 2)})


def test_overwrite_throws_away_the_run_and_nothing_else(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, {"seed": 1}) as run_dir:
        run_dir.finish(results(50))
    for name in (runs.LAST, runs.METRICS, "events.out.tfevents.1", "notes.txt"):
        (tmp_path / name).write_text("x")
    with RunDirectory(tmp_path, {"seed": 2}, overwrite=True) as run_dir:
        assert run_dir.results() is None
    assert {file.name for file in tmp_path.iterdir()} == {"notes.txt", runs.CONFIG, runs.LOCK}


def test_the_table_ranks_runs_and_marks_the_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, top1 in (("low", 10.0), ("high", 90.0)):
        with RunDirectory(Path("runs") / name, {"epochs": 3}) as run_dir:
            run_dir.finish(results(top1))
    RunDirectory(Path("runs/half"), {"epochs": 3}).close()
    header = "epoch,step,lr,train/loss,train/top1,train/top5,val/loss,val/top1,val/top5\n"
    rows = "1,5,0.1,2,20,60,,,\n1,10,0.1,2,20,60,1.5,40.0,80\n2,20,0.1,2,20,60,1.5,30.0,80\n"
    (tmp_path / "runs/half" / runs.METRICS).write_text(header + rows)
    RunDirectory(Path("runs/none"), {"epochs": 3}).close()
    lines = runs.table(runs.find([Path("runs")])).splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["runs/high", "runs/half", "runs/low", "runs/none"]
    assert "40.00" in lines[1]
    assert "after epoch 2" in lines[1]
    assert "finished" in lines[0]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        runs.find([tmp_path / "nowhere"])


def test_a_run_below_its_bar_fails(tmp_path: Path) -> None:
    runs.hold_to(None, results(1))
    runs.hold_to(50, results(50))
    for low in (49.9, float("nan")):
        with pytest.raises(runs.TooLowError, match="min_val_top1=50") as error:
            runs.hold_to(50, results(low))
        assert error.value.exit_code == 1


def test_the_summary_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = runs.summary(results(91.5, val_top5=None), tmp_path / "runs/a")
    for word in ("91.50 %", "2 of 3", "runs/a/best.pt", "tensorboard --logdir runs/a", "1:15", "fewer than 6 classes"):
        assert word in text


def test_a_finished_runs_results_are_read_back(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, {}) as run_dir:
        run_dir.finish(results(50))
        assert run_dir.results() == json.loads((tmp_path / runs.RESULTS).read_text()) == results(50)
