"""A run keeps what it was made with, and is run again from that."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imgcls.commands.replay import replay_words
from imgcls.environment import CONF_DIR
from imgcls.runs import RunDirectory, add_to_capsule, describe_start, differences, read_capsule

ROOT = CONF_DIR.parent


def test_a_start_names_command_code_packages_and_machine_and_no_host() -> None:
    import platform

    start = describe_start(["model=lenet5"], "cpu")
    assert start["words"] == ["model=lenet5"]
    assert start["packages"]["hydra-core"].startswith("1.3")
    assert start["python"] == platform.python_version()
    assert start["cores"] >= 1
    host = platform.node()
    assert len(host) < 3 or host not in json.dumps({key: start[key] for key in ("system", "processor", "device")})


def test_each_start_is_added_and_the_first_stays(tmp_path: Path) -> None:
    for words in (["seed=1"], ["seed=1", "device=cpu"]):
        add_to_capsule(tmp_path, describe_start(words, "cpu"))
    assert [start["words"] for start in read_capsule(tmp_path)] == [["seed=1"], ["seed=1", "device=cpu"]]
    for start in read_capsule(tmp_path):
        assert (start["changes"] is None) == (not list(tmp_path.glob("code-*.diff")))


def test_what_differs_is_a_line_for_each_package_and_nothing_of_when_and_where() -> None:
    then: dict[str, Any] = {"started": "1", "folder": "/a", "commit": "aa", "packages": {"torch": "2.1", "old": "1"}}
    now = {"started": "2", "folder": "/b", "commit": "bb", "packages": {"torch": "2.2", "new": "3"}}
    assert differences(then, now) == [
        "commit: aa then, bb now",
        "new: none then, 3 now",
        "old: 1 then, none now",
        "torch: 2.1 then, 2.2 now",
    ]
    assert differences(then, then | {"started": "3"}) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"starts": 3}', '{"starts": [{}]}'])
def test_a_damaged_capsule_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "capsule.json").write_text(text)
    with pytest.raises(ValueError, match=r"capsule\.json is damaged"):
        read_capsule(tmp_path)


def test_a_run_without_a_capsule_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run with a capsule\.json"):
        read_capsule(tmp_path)


def test_training_from_scratch_removes_the_capsule_of_the_run_before(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, {}) as run_dir:
        run_dir.claim()
        add_to_capsule(tmp_path, describe_start([], "cpu"))
        (tmp_path / "code-1.diff").touch()
    with RunDirectory(tmp_path, {}, overwrite=True) as run_dir:
        run_dir.claim()
    assert not list(tmp_path.glob("*capsule*")) + list(tmp_path.glob("code-*"))


def test_a_replay_has_a_directory_of_its_own_and_overwrites_nothing() -> None:
    words = ["model=lenet5", "name=x", "overwrite=true", "hydra.run.dir='runs/x'", "sweep.jobs=2", "seed=3"]
    assert replay_words(words, Path("/new")) == ["model=lenet5", "seed=3", "hydra.run.dir='/new'"]


@pytest.mark.e2e
def test_a_run_replayed_gives_the_same_results(tiny_folder: Path, tmp_path: Path) -> None:
    def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / script), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    scale = ["image_size=32", "batch_size=12", "epochs=1", "data.num_threads=1", "logger=none"]
    first = run("train.py", "model=lenet5", "data=folder", f"data.root={tiny_folder}", *scale, "name=a")
    assert first.returncode == 0, first.stderr
    shown = run("scripts/replay.py", "runs/lenet5-folder/a", "dry=true")
    assert "differs" not in shown.stdout
    assert not (tmp_path / "runs/lenet5-folder/a-replay").exists()
    done = run("scripts/replay.py", "runs/lenet5-folder/a")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("the same results (val_loss: ")
