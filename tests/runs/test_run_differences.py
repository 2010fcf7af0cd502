"""Two runs beside each other: what differs in config, code, packages, machine, data and curves."""

import json
from pathlib import Path
from typing import Any

import pytest

from imgcls.commands.compare import compare
from imgcls.runs import diff_runs, render_differences

METRICS = "epoch,step,lr,val/loss,val/top1\n1,5,0.1,,\n1,10,0.1,1.5,40.0\n2,20,0.1,{loss},30.0\n"


def write_run(path: Path, *, loss: float = 1.4, start: dict[str, Any] | None = None, **config: Any) -> Path:
    path.mkdir(parents=True)
    keys = {"data.name": "digits", "optimizer.lr": 0.1, "seed": 0} | config
    (path / "config.json").write_text(json.dumps(keys))
    (path / "metrics.csv").write_text(METRICS.format(loss=loss))
    numbers = {"val_top1": 40.0, "best_epoch": 1, "epochs": 2, "steps": 20, "seconds": 75.0, "data_root": "/a"}
    (path / "results.json").write_text(json.dumps(numbers | {"data": {"classes": 10, "checksum": str(loss)}}))
    words: dict[str, Any] = {"words": [], "started": str(loss), "commit": "aa", "cores": 2}
    (path / "capsule.json").write_text(json.dumps({"starts": [words | {"packages": {"torch": "2.1"}} | (start or {})]}))
    return path


def test_each_part_names_what_differs(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    start = {"commit": "bb", "cores": 4, "changes": "12", "packages": {"torch": "2.2", "numpy": "2"}}
    other = write_run(tmp_path / "b/c", loss=1.25, start=start, seed=1)
    (other / "code-12.diff").write_text("--- a/train.py\n+++ b/train.py\n@@\n-x\n+y\n")
    found = diff_runs(one, other)
    assert {name: [tuple(each) for each in part] for name, part in found.parts.items()} == {
        "config": [("seed", 0, 1)],
        "code": [("commit", "aa", "bb"), ("changes", None, "12")],
        "packages": [("numpy", None, "2"), ("torch", "2.1", "2.2")],
        "machine": [("cores", 2, 4)],
        "data": [("checksum", "1.4", "1.25")],
    }
    assert (found.same_until, found.same_curves) == (10, False)
    text = render_differences(found)
    assert "  seed: 0 -> 1" in text.splitlines()
    assert "  numpy: none -> 2" in text.splitlines()
    assert "the same until step 10" in text
    assert "epoch 2: val/loss 1.4 -> 1.25 (-0.15), val/top1 30 -> 30 (+0)" in text
    assert "not committed in" in text
    assert "train.py (code-12.diff)" in text
    content = json.loads(render_differences(found, "json"))
    assert (content["config"], content["curves"]["same_until_step"]) == ({"seed": [0, 1]}, 10)


def test_the_same_run_twice_differs_in_nothing(tmp_path: Path) -> None:
    found = diff_runs(write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    assert not any(found.parts.values())
    assert found.notes == []
    assert "the same to the last digit" in render_differences(found)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (other / "capsule.json").unlink()
    (other / "results.json").unlink()
    notes = "\n".join(diff_runs(one, other).notes)
    assert "b has no capsule.json: its code, packages and machine are unknown" in notes
    assert "b has not finished" in notes


def test_a_run_that_was_resumed_with_other_packages_says_so(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    starts = json.loads((other / "capsule.json").read_text())["starts"]
    earlier = starts[0] | {"packages": {"torch": "1.0"}}
    (other / "capsule.json").write_text(json.dumps({"starts": [earlier, *starts]}))
    assert "was resumed with another torch; its last of 2 starts is shown" in diff_runs(one, other).notes[0]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--diff", "a"], "--diff: name two runs, not 1"),
        (["--diff", "a", "nowhere"], "nowhere: there is no such folder"),
        (["--diff", "a", "empty"], "empty: holds no run"),
        (["--diff", "a", "half"], "metrics.csv is damaged"),
        (["--diff", "a", "a", "format=csv"], "format=csv: --diff prints text or json"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (write_run(tmp_path / "half") / "metrics.csv").write_text(METRICS.format(loss=1) + "3,1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare.py", *words])
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        compare()
    assert said in str(error.value)
