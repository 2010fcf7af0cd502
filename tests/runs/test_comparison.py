"""Runs are compared by data set, with the settings that differ, and each says whether it runs, stopped or failed."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imgcls.environment import CONF_DIR
from imgcls.runs import RunDirectory, RunRow, compare_rows, find_runs, note_failure, read_row, render, row_of

METRICS = "epoch,step,lr,val/loss,val/top1\n1,5,0.1,1.5,40.0\n2,10,0.1,1.4,30.0\n"


def write_run(path: Path, top1: float | None = None, **config: Any) -> Path:
    """Write a run of the flat `config`, finished if it has a `top1`."""
    path.mkdir(parents=True)
    keys = {"data.name": "digits", "optimizer.lr": 0.1, "seed": 0, "epochs": 3}
    keys |= {key.replace("__", "."): value for key, value in config.items()}
    (path / "config.json").write_text(json.dumps(keys))
    if top1 is not None:
        numbers = {"val_top1": top1, "val_top5": None, "val_loss": 1.0, "best_epoch": 2, "epochs": 3, "steps": 9}
        (path / "results.json").write_text(json.dumps(numbers | {"seconds": 75.0, "data": {"classes": 10}}))
    return path


def rows_below(path: Path) -> list[RunRow]:
    return [row_of(run) for run in find_runs([path])]


def names(rows: list[RunRow]) -> list[str]:
    return [row.path.name for row in rows]


def test_each_data_set_has_a_table_of_its_own_best_first(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 50.0)
    write_run(tmp_path / "b", 60.0, seed=1)
    write_run(tmp_path / "c", 99.0, data__name="mnist")
    write_run(tmp_path / "d")
    groups = compare_rows(rows_below(tmp_path))
    assert [(group.title, names(group.rows)) for group in groups] == [("digits", ["b", "a", "d"]), ("mnist", ["c"])]
    text = render(groups)
    assert text.index("digits") < text.index("mnist")
    assert "also differ" not in text


def test_two_sets_of_images_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name, checksum in (("a", "1"), ("b", "2"), ("c", "2")):
        run = write_run(tmp_path / name, 50.0, data__name="folder")
        results = json.loads((run / "results.json").read_text())
        images = {"classes": 3, "training images": 60, "checksum": checksum}
        (run / "results.json").write_text(json.dumps(results | {"data": images}))
    write_run(tmp_path / "d", data__name="folder")
    assert [(group.title, names(group.rows)) for group in compare_rows(rows_below(tmp_path))] == [
        ("folder (3 classes, 60 training images, 1)", ["a"]),
        ("folder (3 classes, 60 training images, 2)", ["b", "c"]),
        ("folder (unfinished)", ["d"]),
    ]


def test_columns_are_the_settings_that_differ_and_one_of_those_that_differ_together(tmp_path: Path) -> None:
    shared = {"recipe__name": "lenet", "recipe__paper": "LeCun"}
    write_run(tmp_path / "a", 50.0, optimizer__lr=0.5, **shared, optimizer___target_="torch.optim.SGD")
    write_run(tmp_path / "b", 60.0, recipe__name="vgg", recipe__paper="S", optimizer___target_="torch.optim.SGD")
    write_run(tmp_path / "c", 70.0, **shared, seed=3, optimizer___target_="torch.optim.AdamW")
    (group,) = compare_rows(rows_below(tmp_path))
    assert group.columns == ["recipe.name", "optimizer._target_", "optimizer.lr"]
    header, _, best, *_ = render([group]).splitlines()[1:]
    assert re.split(r"  +", header)[3:6] == ["recipe.name", "optimizer", "optimizer.lr"]
    assert best.split()[1:] == ["70.00", "-", "lenet", "AdamW", "0.1", "2", "of", "3", "1:15", "finished"]
    (more,) = compare_rows(rows_below(tmp_path), columns=["epochs"])
    assert more.columns[0] == "epochs"


def test_what_has_no_room_is_named_below_the_table(tmp_path: Path) -> None:
    for number in range(9):
        write_run(tmp_path / str(number), 50.0, **{f"key{other}": int(other == number) for other in range(9)})
    (group,) = compare_rows(rows_below(tmp_path))
    assert len(group.columns) == 6
    assert "also differ: key6, key7, key8" in render([group])


@pytest.mark.parametrize(
    "where, kept",
    [
        (["seed=1"], "b"),
        (["seed!=1"], "ac"),
        (["optimizer.lr<0.1"], "c"),
        (["optimizer.lr>=0.1", "seed<1"], "a"),
        (["top1>55"], "bc"),
        (["flag=true"], "c"),
        (["name=x.y"], "a"),
        (["state=finished"], "abc"),
        (["weights=null"], "abc"),
    ],
)
def test_runs_are_filtered_by_settings_and_scores(where: list[str], kept: str, tmp_path: Path) -> None:
    write_run(tmp_path / "a", 50.0, name="x.y", weights=None)
    write_run(tmp_path / "b", 60.0, seed=1)
    write_run(tmp_path / "c", 70.0, seed=2, optimizer__lr=0.01, flag=True)
    shown = [name for group in compare_rows(rows_below(tmp_path), where=where) for name in names(group.rows)]
    assert sorted(shown) == list(kept)


@pytest.mark.parametrize(
    "sort, order",
    [("top1", "cab"), ("-top1", "bac"), ("loss", "abc"), ("optimizer.lr", "bca"), ("-optimizer.lr", "acb")],
)
def test_runs_are_sorted_by_a_score_or_a_setting_and_those_without_it_come_last(
    sort: str, order: str, tmp_path: Path
) -> None:
    for name, top1, lr in (("a", 60.0, 0.3), ("b", 50.0, 0.1), ("c", 70.0, 0.2), ("d", None, None)):
        write_run(tmp_path / name, top1, optimizer__lr=lr)
    (group,) = compare_rows(rows_below(tmp_path), sort=sort)
    assert "".join(names(group.rows)) == f"{order}d"


@pytest.mark.parametrize(
    "options, said",
    [
        ({"where": ["sed=1"]}, ["sed", "did you mean seed?"]),
        ({"where": ["seed"]}, ["where=seed", "seed=1"]),
        ({"where": ["seed<x"]}, ["where=seed<x", "no number"]),
        ({"sort": "optimizer.l"}, ["optimizer.l", "did you mean optimizer.lr?"]),
        ({"columns": ["epoch"]}, ["did you mean epochs?"]),
    ],
)
def test_a_wrong_name_or_condition_is_one_line(options: dict[str, Any], said: list[str], tmp_path: Path) -> None:
    write_run(tmp_path / "a", 50.0)
    with pytest.raises(ValueError) as error:
        compare_rows(rows_below(tmp_path), **options)
    assert all(word in str(error.value) for word in said)


def test_csv_markdown_and_json_hold_the_same_runs_whole(tmp_path: Path) -> None:
    name = "a" * 90
    write_run(tmp_path / name, 50.0)
    write_run(tmp_path / "b", seed=1)
    note_failure(tmp_path / "b", "the loss | is nan")
    groups = compare_rows(rows_below(tmp_path))
    rows = list(csv.DictReader(io.StringIO(render(groups, "csv"))))
    assert [(Path(row["run"]).name, row["data"], row["val/top1"], row["seed"]) for row in rows] == [
        (name, "digits", "50.0", "0"),
        ("b", "digits", "", "1"),
    ]
    assert rows[1]["reason"] == "the loss | is nan"
    (data,) = json.loads(render(groups, "json"))
    assert (data["data"], data["differ"]) == ("digits", ["seed"])
    assert data["runs"][0]["config"]["optimizer.lr"] == 0.1
    table = render(groups, "markdown").splitlines()
    assert table[0] == "## digits"
    assert table[3] == "|" + " --- |" * 7
    assert "failed: the loss \\| is nan" in table[5]
    assert name in table[4]
    assert name not in render(groups)
    assert f"{'a' * 20}..." not in table[4]


def test_an_unfinished_run_says_whether_it_runs_stopped_or_failed(tmp_path: Path) -> None:
    for name in ("running", "stopped", "early", "failed", "unlocked"):
        write_run(tmp_path / name)
        (tmp_path / name / "lock").touch()
    for name in ("running", "stopped", "failed"):
        (tmp_path / name / "metrics.csv").write_text(METRICS)
    (tmp_path / "unlocked/lock").unlink()
    note_failure(tmp_path / "failed", "the loss\nis nan")
    with RunDirectory(tmp_path / "running", {}):
        states = {row.path.name: row.state_text for row in rows_below(tmp_path)}
    assert states == {
        "running": "running after epoch 2",
        "stopped": "stopped after epoch 2",
        "early": "stopped in the first epoch",
        "failed": "failed: the loss is nan",
        "unlocked": "stopped or running in the first epoch",
    }
    assert read_row(tmp_path / "failed").scores["top1"] == 40.0
    assert (read_row(tmp_path / "failed").best_epoch, read_row(tmp_path / "failed").last_epoch) == (1, 2)


def test_an_error_that_ends_a_run_is_noted_until_it_goes_on_and_a_signal_is_not(tmp_path: Path) -> None:
    def train(error: BaseException, *, claim: bool) -> None:
        with RunDirectory(tmp_path / "run", {}) as run_dir:
            if claim:
                run_dir.claim()
            raise error

    def end(error: BaseException, *, claim: bool = True) -> None:
        with pytest.raises(type(error)):
            train(error, claim=claim)

    end(ValueError("a mistake"), claim=False)
    assert not (tmp_path / "run").exists()
    end(ValueError("the loss\nis nan"))
    assert row_of(tmp_path / "run").state_text == "failed: the loss is nan"
    end(ZeroDivisionError("a bug"))
    assert row_of(tmp_path / "run").state_text == "failed: ZeroDivisionError: a bug"
    end(KeyboardInterrupt())
    assert row_of(tmp_path / "run").state_text == "stopped in the first epoch"


def test_a_damaged_run_is_a_row_that_says_so_and_hides_no_other(tmp_path: Path) -> None:
    write_run(tmp_path / "good", 50.0)
    write_run(tmp_path / "half")
    (tmp_path / "half/metrics.csv").write_text(METRICS + "3,1")
    write_run(tmp_path / "edited", 60.0)
    (tmp_path / "edited/results.json").write_text("{")
    states = {row.path.name: row.state_text for row in rows_below(tmp_path)}
    assert states["good"] == "finished"
    assert "metrics.csv is damaged" in states["half"]
    assert "results.json is damaged" in states["edited"]


def test_the_mean_over_seeds_has_students_interval(tmp_path: Path) -> None:
    for name, lr, seed, top1 in (("a", 0.1, 1, 90.0), ("b", 0.1, 2, 92.0), ("c", 0.2, 3, 50.0), ("d", 0.1, 4, None)):
        write_run(tmp_path / name, top1, optimizer__lr=lr, seed=seed)
    (group,) = compare_rows(rows_below(tmp_path))
    # Student's t with one degree of freedom: 12.7062 standard errors, which are 1 here.
    line = f"{tmp_path / 'a'} and 1 more, over 2 seeds: top-1 91.00 +- 12.71 % (95 % interval)"
    assert line in render([group]).splitlines()


def test_the_same_seed_twice_is_no_repetition(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, 90.0)
    (group,) = compare_rows(rows_below(tmp_path))
    assert group.seeds == []


def compare(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CONF_DIR.parent / "scripts/compare.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_command_takes_filters_and_forms_and_shows_the_runs_of_a_sweep(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path / "runs" / str(seed), 50.0 + seed, seed=seed)
    (tmp_path / "sweeps/s").mkdir(parents=True)
    (tmp_path / "sweeps/s/jobs.csv").write_text("job,words,run,state\n1,,runs/1,finished\n2,,runs/9,waiting\n")
    done = compare("where=seed>1", "format=csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["run"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["runs/3", "runs/2"]
    swept = compare("sweeps/s", "format=json", cwd=tmp_path)
    assert [row["run"] for row in json.loads(swept.stdout)[0]["runs"]] == ["runs/1"]
    wrong = compare("sort=sed", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: sed: no run has such a setting or score (did you mean seed?)\n"


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    for number in range(50):
        write_run(tmp_path / "runs" / f"{number}{'x' * 60}", 50.0, seed=number, key="y" * 3000)
    command = [sys.executable, str(CONF_DIR.parent / "scripts/compare.py"), "format=json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")
