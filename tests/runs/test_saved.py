"""Files of a run that were damaged or edited are one error with their name, and nothing is waited for."""

import json
import os
from pathlib import Path

import pytest

from imgcls.inference.plots import read_curves
from imgcls.runs import RunDirectory, check_regular, read_metrics, read_row

RESULTS = {
    "val_top1": 50.0,
    "val_top5": None,
    "best_epoch": 1,
    "epochs": 2,
    "steps": 30,
    "seconds": 7.5,
    "data": {},
    "data_root": None,
}
GOOD = "epoch,step,lr,val/top1\n1,5,0.1,\n1,10,0.1,40.0\n"


def test_a_pipe_or_folder_in_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "config.json", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for file in (pipe, loop, tmp_path):
        with pytest.raises(ValueError, match=rf"^{file} .*remove it"):
            check_regular(file)
    check_regular(tmp_path / "nothing")
    for open_it in (
        lambda: RunDirectory(tmp_path, {}, look_only=True),
        lambda: RunDirectory(tmp_path, {}),
        lambda: read_row(tmp_path),
    ):
        with pytest.raises(ValueError, match=r"config\.json is no file"):
            open_it()
    pipe.rename(tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match=r"metrics\.csv is no file"):
        read_curves(tmp_path)


@pytest.mark.parametrize(
    "results",
    [
        [],
        None,
        {},
        RESULTS | {"val_top1": "x"},
        RESULTS | {"val_top5": []},
        RESULTS | {"steps": None},
        RESULTS | {"steps": True},
        RESULTS | {"seconds": -1},
        RESULTS | {"seconds": float("nan")},
        RESULTS | {"data": []},
    ],
)
def test_results_that_were_edited_are_damaged(results: object, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    for read in (RunDirectory(tmp_path, {}, look_only=True).results, lambda: read_row(tmp_path)):
        with pytest.raises(ValueError, match=r"results\.json is damaged .*overwrite=true"):
            read()


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", "[]", '{"a": 1', "9" * 5000])
def test_a_config_that_is_no_json_of_keys_is_damaged(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    (tmp_path / "last.pt").touch()
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        RunDirectory(tmp_path, {}, look_only=True)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        read_row(tmp_path)


@pytest.mark.parametrize(
    "text, reason",
    [
        (GOOD.replace("40.0", "x"), "val/top1 in line 3 is no number"),
        (GOOD.replace("1,5", "1.5,5"), "epoch in line 2 is no number"),
        (GOOD.replace("val/top1", "top1"), "line 2 has other columns"),
        (GOOD.replace("0.1,\n", "0.1\n"), "line 2 has other columns"),
        (GOOD.replace("0.1,\n", "0.1,,,7\n"), "line 2 has other columns"),
        (GOOD + "1" * 200_000 + ",", "field larger than field limit"),
    ],
)
def test_metrics_that_were_edited_are_damaged(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.csv").write_text(text)
    for read in (lambda: read_curves(tmp_path), lambda: read_row(tmp_path)):
        with pytest.raises(ValueError, match=rf"metrics\.csv is damaged \(.*{reason}"):
            read()
    (tmp_path / "metrics.csv").write_text(GOOD)
    assert len(read_metrics(tmp_path / "metrics.csv")) == 2
